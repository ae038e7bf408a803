"""Thresholds chosen during validation, against those of all pairs computed here."""

from pathlib import Path

import lightning as L
import pytest
import torch
from tiny_runs import QUIET

from arcface_pl import ArcFaceHead, ArcFaceModule, MNISTDataModule, Recognizer, SimpleCNN
from arcface_pl.callbacks import ThresholdCalibration
from arcface_pl.metrics.functional import tar_at_far, verification_curve

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches", "ignore:.*does not have many workers"),
    pytest.mark.timeout(120),
]


def fit(
    folder: Path, callback: ThresholdCalibration, epochs: int = 1, batches: float = 4, **data: object
) -> tuple[MNISTDataModule, dict]:
    L.seed_everything(0)
    module = MNISTDataModule(dataset="digits", **data)  # type: ignore[arg-type]
    module.setup()
    limits = {"max_epochs": epochs, "limit_train_batches": batches}
    trainer = L.Trainer(**QUIET, **limits, callbacks=[callback], default_root_dir=folder)
    trainer.fit(ArcFaceModule(SimpleCNN(8), ArcFaceHead(8, module.num_classes)), datamodule=module)
    trainer.save_checkpoint(folder / "model.ckpt")
    return module, torch.load(folder / "model.ckpt", weights_only=True)


def test_the_threshold_kept_is_that_of_all_validation_pairs(tmp_path: Path) -> None:
    data, checkpoint = fit(tmp_path, ThresholdCalibration(far=0.01))
    recognizer = Recognizer.from_checkpoint(tmp_path / "model.ckpt")
    unit, labels = recognizer.embed(data.val_images, framed=True), data.val_labels
    rows, columns = torch.triu_indices(len(unit), len(unit), offset=1)
    scores, genuine = (unit @ unit.T)[rows, columns], labels[rows] == labels[columns]
    tar, threshold = tar_at_far(scores[genuine], scores[~genuine], 0.01, return_threshold=True)
    assert recognizer.thresholds.verification == pytest.approx(threshold, abs=1e-5)
    cosine = recognizer.class_scores(data.val_images, framed=True)
    own = cosine.gather(1, labels[:, None]).squeeze(1)
    other = cosine.scatter(1, labels[:, None], -2).amax(1)
    _, expected = verification_curve(own, other).tar_at_far(0.01)
    assert recognizer.thresholds.classification == pytest.approx(expected, abs=1e-5)
    found = checkpoint["calibration"]
    assert found["verification"]["tar"] == pytest.approx(tar, abs=1e-3)
    assert (found["source"], found["num_images"], found["far"]) == ("validation", len(labels), 0.01)
    assert checkpoint["validation"]["val/accuracy"] == pytest.approx(float((cosine.argmax(1) == labels).float().mean()))


def test_no_more_images_are_measured_than_asked_for(tmp_path: Path) -> None:
    data, checkpoint = fit(tmp_path, ThresholdCalibration(num_images=50), eval_batch_size=20)
    assert 50 % len(data.val_dataloader())  # equal shares of whole images are more
    assert checkpoint["calibration"]["num_images"] == 50


def threshold_of_pairs(unit: torch.Tensor, labels: torch.Tensor) -> float:
    rows, columns = torch.triu_indices(len(unit), len(unit), offset=1)
    scores, genuine = (unit @ unit.T)[rows, columns], labels[rows] == labels[columns]
    return tar_at_far(scores[genuine], scores[~genuine], 0.01, return_threshold=True)[1]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_classes_held_out_are_what_it_is_measured_on(tmp_path: Path) -> None:
    """Trained far enough that trained classes lie apart: a threshold that counts their pairs in is another one."""
    callback = ThresholdCalibration(far=0.01, num_images=5000)
    data, checkpoint = fit(tmp_path, callback, epochs=4, batches=1.0, batch_size=16, held_out_classes=[8, 9])
    recognizer = Recognizer.from_checkpoint(tmp_path / "model.ckpt")
    held_out = list(data.held_out_dataloader("val"))
    with torch.no_grad():
        raw = torch.cat([recognizer.model.backbone(images) for images, _ in held_out])
        cosine = recognizer.model.head.cosine(raw)
    unit, labels = torch.nn.functional.normalize(raw, dim=1), torch.cat([each for _, each in held_out])
    trained_unit, trained_labels = recognizer.embed(data.val_images, framed=True), data.val_labels
    trained_cosine = recognizer.class_scores(data.val_images, framed=True)
    assert (trained_cosine.argmax(1) == trained_labels).float().mean() > 0.9

    expected = threshold_of_pairs(unit, labels)
    mixed = threshold_of_pairs(torch.cat((unit, trained_unit)), torch.cat((labels + 100, trained_labels)))
    of_trained = threshold_of_pairs(trained_unit, trained_labels)
    assert min(abs(expected - mixed), abs(expected - of_trained)) > 0.03
    assert recognizer.thresholds.verification == pytest.approx(expected, abs=1e-4)

    own = trained_cosine.gather(1, trained_labels[:, None]).squeeze(1)
    other = trained_cosine.scatter(1, trained_labels[:, None], -2).amax(1)
    _, known = verification_curve(own, cosine.amax(1)).tar_at_far(0.01)
    _, without_unknown = verification_curve(own, other).tar_at_far(0.01)
    assert abs(known - without_unknown) > 0.2
    assert recognizer.thresholds.classification == pytest.approx(known, abs=1e-4)
    assert checkpoint["calibration"]["source"] == "held-out classes"
    assert checkpoint["calibration"]["num_images"] == len(labels) + len(trained_labels)
    assert checkpoint["calibration"]["classification"]["num_impostor"] == len(labels)


@pytest.mark.parametrize("data", [{"val_fraction": 0.0}, {"watch_test": True}])
def test_without_honest_validation_nothing_is_kept(tmp_path: Path, data: dict) -> None:
    _, checkpoint = fit(tmp_path, ThresholdCalibration(), **data)
    assert "calibration" not in checkpoint
    assert Recognizer.from_checkpoint(tmp_path / "model.ckpt").thresholds == (None, None)
