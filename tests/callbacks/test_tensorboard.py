"""What a run leaves in TensorBoard, read back from its files and held against values computed here."""

import io
import os
import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata
from tiny_runs import QUIET
from torch import Tensor

from arcface_pl import ArcFaceModule, MNISTDataModule, SimpleCNN
from arcface_pl.callbacks import (
    AngleHistograms,
    ConfusionMatrix,
    EmbeddingProjector,
    EpochLines,
    EvaluationFigures,
    HyperParameters,
    Overview,
    RunCheckpoint,
    RunLogger,
    TrainingAccuracy,
)
from arcface_pl.callbacks.tensorboard import confusion_matrix as confusion_room
from arcface_pl.callbacks.tensorboard import evaluation_figures as evaluation_room
from arcface_pl.callbacks.tensorboard.angle_histograms import angle_history_of
from arcface_pl.figures import Evaluated, draw_all, draw_confusion, tinted
from arcface_pl.figures.style import class_color
from arcface_pl.heads import HEADS, ArcFaceHead
from arcface_pl.seeding import run_seed


def fit(
    folder: Path, *callbacks: L.Callback, epochs: int = 2, logger: object = None, tests: bool = False, **data: object
) -> L.Trainer:
    """Train on 200 of scikit-learn's digits and, where asked, test the result."""
    torch.manual_seed(0)
    optimizer = partial(torch.optim.Adam, lr=1e-3, weight_decay=1e-4)
    module = ArcFaceModule(SimpleCNN(8), ArcFaceHead(8, 10), optimizer=optimizer)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        limit_train_batches=4,
        log_every_n_steps=2,
        default_root_dir=folder,
        logger=RunLogger(str(folder)) if logger is None else logger,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(each, RunCheckpoint) for each in callbacks),
        num_sanity_val_steps=0,
    )
    datamodule = MNISTDataModule(dataset="digits", batch_size=50, eval_batch_size=64, augment=False, seed=0, **data)
    trainer.fit(module, datamodule=datamodule)
    if tests:
        trainer.test(module, datamodule=datamodule, verbose=False)
    return trainer


def read(folder: Path) -> list[EventAccumulator]:
    """Return what each of the run's event files holds; fit and test write one each, and a command its figures."""
    files = sorted((folder / "lightning_logs" / "version_0").glob("events.*"))
    events = [EventAccumulator(str(file), size_guidance={"histograms": 0, "images": 0}) for file in files]
    return [each.Reload() for each in events]


def embed(trainer: L.Trainer, images: Tensor) -> Tensor:
    """Embed uint8 images with the weights that training ended with."""
    module, datamodule = trainer.lightning_module, trainer.datamodule
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in datamodule.normalization)
    with torch.no_grad():
        return module.eval()((images / 255 - mean) / std).double()


def angles(trainer: L.Trainer) -> np.ndarray:
    """Return the angles, in degrees, between the validation images and all classes, (N, C)."""
    embeddings = embed(trainer, trainer.datamodule.val_images).numpy()
    centers = trainer.lightning_module.head.weight.detach().double().numpy()
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    return np.degrees(np.arccos(np.clip(embeddings @ centers.T, -1, 1)))


def test_histograms_count_the_angles_of_every_validation_image(tmp_path: Path) -> None:
    trainer = fit(tmp_path, AngleHistograms())
    theta = angles(trainer)
    labels = trainer.datamodule.val_labels.numpy()
    own = theta[np.arange(len(labels)), labels]
    theta[np.arange(len(labels)), labels] = np.inf
    events = read(tmp_path)[0]
    for name, expected in (("target", own), ("nearest_other", theta.min(axis=1))):
        drawn = events.Histograms(f"val/angle/{name}_degrees")
        assert [event.step for event in drawn] == [4, 8]
        last = drawn[-1].histogram_value
        assert last.num == len(labels)
        limits = [last.min, *last.bucket_limit]
        # An angle within a rounding of a whole degree may fall on either side of it.
        counts = np.histogram(expected, limits)[0]
        assert np.abs(counts - np.array(last.bucket)).sum() <= 2
        assert last.sum / last.num == pytest.approx(expected.mean(), abs=0.1)


def test_confusion_counts_are_those_of_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def spy(counts: Tensor, class_names: list[str], split: str) -> object:
        drawn.append((split, counts.to_dense().numpy(), class_names))
        return draw_confusion(counts, class_names, split)

    monkeypatch.setattr(confusion_room, "draw_confusion", spy)
    trainer = fit(tmp_path, ConfusionMatrix(), tests=True)
    assert [split for split, *_ in drawn] == ["val", "val", "test"]
    _, counts, class_names = drawn[1]
    assert class_names == list("0123456789")
    labels, predictions = trainer.datamodule.val_labels.numpy(), angles(trainer).argmin(axis=1)
    assert np.array_equal(counts, confusion_matrix(labels, predictions, labels=range(10)))
    fitted, tested = read(tmp_path)
    assert [event.step for event in fitted.Images("val/confusion_matrix")] == [4, 8]
    assert [event.step for event in tested.Images("test/confusion_matrix")] == [8]
    picture = Image.open(io.BytesIO(tested.Images("test/confusion_matrix")[0].encoded_image_string))
    assert min(picture.size) > 400


def test_a_million_classes_are_counted_by_the_pairs_that_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense counts of a million classes would be 8 TB."""
    drawn = []
    monkeypatch.setattr(confusion_room, "draw_confusion", lambda counts, names, split: drawn.append((counts, names)))
    monkeypatch.setattr(confusion_room, "add_figure", lambda *_: None)
    monkeypatch.setattr(confusion_room, "shows_figures", lambda trainer: True)
    state = {"testing": True, "is_global_zero": True, "sanity_checking": False, "global_step": 1, "current_epoch": 0}
    trainer: Any = SimpleNamespace(**state)
    for num_classes in (10_000, 1_000_000):
        callback, module = (
            ConfusionMatrix(),
            SimpleNamespace(head=SimpleNamespace(num_classes=num_classes), device="cpu"),
        )
        callback.on_test_epoch_start(trainer, module)  # type: ignore[arg-type]
        labels = torch.arange(0, num_classes, num_classes // 1000)
        for predictions in (labels, labels.roll(1), torch.full_like(labels, num_classes)):  # the last are no classes
            callback.on_scored_batch(trainer, {"labels": labels, "predictions": predictions}, None, 0)  # type: ignore[typeddict-item]
        callback.on_test_epoch_end(trainer, module)  # type: ignore[arg-type]
        counts, names = drawn.pop()
        assert len(names) == num_classes
        assert counts.shape == (num_classes, num_classes)
        expected = torch.cat((torch.stack((labels, labels), 1), torch.stack((labels, labels.roll(1)), 1)))
        assert {tuple(place) for place in counts.indices().T.tolist()} == {tuple(each) for each in expected.tolist()}
        assert (counts.values() == 1).all()


def test_a_checkpoint_remembers_the_angles_of_every_epoch(tmp_path: Path) -> None:
    trainer = fit(tmp_path, AngleHistograms(), epochs=2)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    history = angle_history_of(torch.load(tmp_path / "model.ckpt", weights_only=True))
    assert history is not None
    assert history.epochs.tolist() == [1, 2]
    theta = angles(trainer)
    own = theta[np.arange(len(theta)), trainer.datamodule.val_labels.numpy()]
    assert np.abs(history.target[-1].numpy() - np.histogram(own, np.arange(181))[0]).sum() <= 2
    assert history.nearest_other.sum(1).tolist() == [len(theta)] * 2

    resumed = AngleHistograms()
    resumed.load_state_dict(history._asdict())
    state = resumed.state_dict()
    assert all(torch.equal(state[name], value) for name, value in history._asdict().items())
    assert read(tmp_path)[0].Tags()["images"] == ["val/angle/over_training"]
    assert angle_history_of({"callbacks": {}}) is None


def test_the_last_evaluation_is_drawn_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Evaluated] = []

    def spy(evaluated: Evaluated) -> object:
        drawn.append(evaluated)
        return draw_all(evaluated)

    monkeypatch.setattr(evaluation_room, "draw_all", spy)
    trainer = fit(tmp_path, EvaluationFigures(num_images=60), epochs=2, tests=True)
    assert [each.split for each in drawn] == ["val", "test"]
    found = drawn[0]
    theta, labels = angles(trainer), trainer.datamodule.val_labels.numpy()
    rows, predictions = np.arange(len(labels)), theta.argmin(axis=1)
    assert found.closed is not None
    assert found.closed.num_wrong == (predictions != labels).sum() > 24
    assert found.closed.num_images == len(labels)
    depth = theta[rows, labels] - theta[rows, predictions]
    hardest = depth.argsort()[::-1][:24]
    mistakes = found.closed.mistakes
    assert np.allclose(mistakes.target_angle, theta[hardest, labels[hardest]], atol=0.05)
    assert np.allclose(mistakes.predicted_angle, theta[hardest, predictions[hardest]], atol=0.05)
    assert mistakes.labels.tolist() == labels[hardest].tolist()
    assert mistakes.predictions.tolist() == predictions[hardest].tolist()

    (mean,), (std,) = trainer.datamodule.normalization
    shown = (mistakes.images * std + mean) * 255
    assert torch.allclose(shown, trainer.datamodule.val_images[hardest.copy()].float(), atol=0.01)
    assert found.curve is not None
    assert len(found.embeddings) == 60
    assert found.curve.num_genuine + found.curve.num_impostor == 60 * 59 // 2
    fitted, tested = read(tmp_path)
    assert set(fitted.Tags()["images"]) == {f"val/{name}" for name in ("roc", "scores", "mistakes", "center_angles")}
    assert set(tested.Tags()["images"]) == {f"test/{name}" for name in ("roc", "scores", "mistakes", "center_angles")}


def test_a_run_that_diverged_or_has_one_class_only_is_not_verified() -> None:
    embeddings, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 1, 1])
    assert evaluation_room._curve(embeddings, labels) is not None
    assert evaluation_room._curve(embeddings, torch.zeros(4, dtype=torch.int64)) is None
    assert evaluation_room._curve(embeddings, torch.arange(4)) is None
    assert evaluation_room._curve(embeddings.fill_diagonal_(torch.nan), labels) is None


def test_projector_shows_unit_embeddings_with_class_and_image(tmp_path: Path) -> None:
    trainer = fit(tmp_path, EmbeddingProjector(num_images=30))
    run = tmp_path / "lightning_logs" / "version_0"
    config = (run / "projector_config.pbtxt").read_text()
    assert config.count("tensor_path") == 1
    folder = run / "00008" / "val_embeddings"
    shown = np.loadtxt(folder / "tensors.tsv")
    header, *rows = [line.split("\t") for line in (folder / "metadata.tsv").read_text().splitlines()]
    assert header == ["class", "predicted"]
    assert len(shown) == len(rows) == 30

    embeddings = embed(trainer, trainer.datamodule.val_images)
    embeddings /= embeddings.norm(dim=1, keepdim=True)
    nearest = torch.cdist(torch.from_numpy(shown), embeddings).min(dim=1)
    assert nearest.values.max() < 1e-4
    assert nearest.indices.diff().min() > 0  # spread over the split, in its order
    assert nearest.indices.max() > len(embeddings) - 20
    labels, predictions = trainer.datamodule.val_labels, angles(trainer).argmin(axis=1)
    assert rows == [[str(labels[index].item()), str(predictions[index])] for index in nearest.indices]

    sprite = np.asarray(Image.open(folder / "sprite.png"))
    assert sprite.shape == (6 * 28, 6 * 28, 3)
    image = 255 - trainer.datamodule.val_images[nearest.indices[7], 0].numpy()
    paper = list(bytes.fromhex(class_color(labels[nearest.indices[7]].item())[1:]))
    wanted = image[:, :, None] * (0.75 * np.array(paper) / 255 + 0.25)
    assert np.abs(sprite[28:56, 28:56] - wanted).max() <= 1  # the eighth: second row, second column


def test_projector_shows_every_n_epochs_and_never_the_same_twice(tmp_path: Path) -> None:
    fit(tmp_path, EmbeddingProjector(num_images=5, every_n_epochs=2), epochs=4)
    config = (tmp_path / "lightning_logs" / "version_0" / "projector_config.pbtxt").read_text()
    assert [f'"val_embeddings:000{step}"' in config for step in ("08", "16")] == [True, True]
    assert config.count("tensor_path") == 2


@pytest.mark.parametrize(("name", "value"), [("num_images", 0), ("num_images", 1.5), ("every_n_epochs", -1)])
def test_projector_names_a_wrong_value(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}: got .*; expected a whole number"):
        EmbeddingProjector(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("callback", [AngleHistograms, ConfusionMatrix])
def test_an_interval_below_one_epoch_is_named(callback: type) -> None:
    with pytest.raises(ValueError, match="^every_n_epochs: got 0; expected a whole number"):
        callback(every_n_epochs=0)


def test_hyperparameters_are_tied_to_the_final_scores(tmp_path: Path) -> None:
    policy = RunCheckpoint()
    trainer = fit(tmp_path, HyperParameters(), policy, tests=True)
    tested = read(tmp_path)[1]
    content = tested.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    given = metadata.parse_session_start_info_plugin_data(content).hparams
    shown = {name: getattr(value, value.WhichOneof("kind")) for name, value in given.items()}
    wanted = {
        "dataset": "digits",
        "augment": "false",
        "batch_size": 50.0,
        "head": "ArcFaceHead",
        "margin": 0.5,
        "scale": 30.0,
        "embedding_dim": 8.0,
        "optimizer": "Adam",
        "lr": 1e-3,
        "weight_decay": 1e-4,
        "lr_schedule": "Constant",
        "max_epochs": 2.0,
        "seed": float(run_seed()),
        "precision": "32-true",
    }
    assert {name: shown[name] for name in wanted} == wanted
    content = tested.summary_metadata[metadata.EXPERIMENT_TAG].plugin_data.content
    metrics = [info.name.tag for info in metadata.parse_experiment_plugin_data(content).metric_infos]
    assert metrics[:2] == ["val/best/accuracy", "test/accuracy"]
    assert {"val/best/loss", "test/loss", "test/margin_accuracy"} == {*metrics[2:]}
    for name in ("accuracy", "loss"):
        assert tested.Scalars(f"val/best/{name}")[-1].value == pytest.approx(policy.best_metrics[f"val/{name}"])
        assert tested.Scalars(f"test/{name}")[-1].value == pytest.approx(
            trainer.callback_metrics[f"test/{name}"].item()
        )


def test_every_head_has_the_same_hyperparameters(tmp_path: Path) -> None:
    names = set()
    for head in HEADS.values():
        callback = HyperParameters()
        trainer = L.Trainer(**QUIET)
        module = ArcFaceModule(SimpleCNN(8), head(8, 10))
        trainer.strategy.optimizers = [module.optimizer(module.parameters())]
        callback.on_train_start(trainer, module)
        assert all(isinstance(value, int | float | str) for value in callback._values.values())
        names.add(frozenset(callback._values))
    assert len(names) == 1


def test_what_the_margin_head_was_given_beyond_margin_and_scale_is_named() -> None:
    callback = HyperParameters()
    trainer = L.Trainer(**QUIET)
    module = ArcFaceModule(SimpleCNN(8), ArcFaceHead(8, 10, sub_centers=2, extension="none"))
    trainer.strategy.optimizers = [module.optimizer(module.parameters())]
    callback.on_train_start(trainer, module)
    assert callback._values["head_options"] == "extension=none, sub_centers=2"


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_the_graph_runs_from_images_to_logits_without_a_warning(tmp_path: Path, head: type) -> None:
    logger = RunLogger(str(tmp_path))
    module = ArcFaceModule(SimpleCNN(8), head(8, 10))
    logger.log_graph(module)
    logger.log_graph(module)
    logger.experiment.close()
    (events,) = read(tmp_path)
    nodes = [node.name for node in events.Graph().node]
    for part in ("Network/SimpleCNN[backbone]/Conv2d[conv1]", f"Network/{head.__name__}[head]"):
        assert any(name.startswith(part) for name in nodes)
    assert len(nodes) == len(set(nodes))


class Talking(SimpleCNN):
    def forward(self, images: Tensor) -> Tensor:
        warnings.warn("of the network", UserWarning, stacklevel=2)
        return super().forward(images)


def test_a_networks_own_warnings_are_shown_while_its_graph_is_drawn(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="of the network"):
        RunLogger(str(tmp_path)).log_graph(ArcFaceModule(Talking(8), ArcFaceHead(8, 10)))


def test_no_graph_where_none_is_wanted(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path), log_graph=False)
    logger.log_graph(ArcFaceModule(SimpleCNN(8), ArcFaceHead(8, 10)))
    assert not (tmp_path / "lightning_logs").exists()


def test_what_watches_the_test_set_says_so(tmp_path: Path) -> None:
    callbacks = AngleHistograms(), ConfusionMatrix(), EmbeddingProjector(num_images=5), EvaluationFigures()
    fit(tmp_path, *callbacks, epochs=1, watch_test=True, val_fraction=0.0)
    events = read(tmp_path)[0]
    assert set(events.Tags()["histograms"]) == {"test/angle/target_degrees", "test/angle/nearest_other_degrees"}
    assert {tag.split("/")[0] for tag in events.Tags()["images"]} == {"test"}
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("val/")]
    assert (tmp_path / "lightning_logs" / "version_0" / "00004" / "test_embeddings").is_dir()


@pytest.mark.parametrize("logger", ["none", "csv"])
def test_without_tensorboard_nothing_is_drawn(tmp_path: Path, logger: str) -> None:
    other = CSVLogger(tmp_path) if logger == "csv" else False
    callbacks = AngleHistograms(), ConfusionMatrix(), EmbeddingProjector(), HyperParameters(), EvaluationFigures()
    fit(tmp_path, *callbacks, epochs=1, logger=other, tests=True)
    assert not list(tmp_path.rglob("events.*"))
    assert not list(tmp_path.rglob("*.png"))
    assert not list(tmp_path.rglob("*.pbtxt"))


def test_pictures_come_every_n_epochs(tmp_path: Path) -> None:
    fit(tmp_path, AngleHistograms(every_n_epochs=2), ConfusionMatrix(every_n_epochs=3), epochs=3, tests=True)
    fitted, tested = read(tmp_path)
    assert [event.step for event in fitted.Histograms("val/angle/target_degrees")] == [8]
    assert [event.step for event in fitted.Images("val/confusion_matrix")] == [12]
    assert tested.Images("test/confusion_matrix")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_count_every_image_and_write_once(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "import numpy as np\n"
        "from arcface_pl.callbacks.tensorboard import confusion_matrix as confusion\n"
        "from arcface_pl.cli import main\n"
        "draw = confusion.draw_confusion\n"
        "def spy(counts, class_names, split):\n"
        "    np.save(f'{split}.npy', counts.to_dense().numpy())\n"
        "    return draw(counts, class_names, split)\n"
        "confusion.draw_confusion = spy\n"
        "main(sys.argv[1:])\n"
    )
    flags = "--data.dataset digits --max_epochs 1 --enable_progress_bar false --model.backbone.embedding_dim 8"
    together = "--accelerator cpu --devices 2 --strategy ddp"
    done = subprocess.run(
        [sys.executable, str(script), "fit", *flags.split(), *together.split()],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    fitted, tested, drawn = read(tmp_path)
    for name in ("target", "nearest_other"):
        assert fitted.Histograms(f"val/angle/{name}_degrees")[0].histogram_value.num == 144
    assert [np.load(tmp_path / f"{split}.npy").sum() for split in ("val", "test")] == [144, 359]
    assert len(fitted.Images("val/confusion_matrix")) == len(drawn.Images("test/confusion_matrix")) == 1
    (folder,) = (tmp_path / "lightning_logs" / "version_0").glob("0*/val_embeddings")
    # The first process's share, its 72 of the 144.
    assert len((folder / "metadata.tsv").read_text().splitlines()) == 1 + 72
    assert tested.Scalars("test/accuracy")


def test_scalars_begin_with_training_and_show_it_next_to_validation(tmp_path: Path) -> None:
    fit(tmp_path, LearningRateMonitor(), TrainingAccuracy(), EpochLines(), Overview(), tests=True)
    fitted, tested = read(tmp_path)
    scalars = fitted.Tags()["scalars"]
    assert {tag.partition("/")[0] for tag in scalars} == {"train", "val"}
    assert "train/lr-Adam/backbone" in scalars
    assert [event.step for event in fitted.Scalars("train/epoch_loss")] == [3, 7]  # from the first epoch on
    assert {tag.partition("/")[0] for tag in tested.Tags()["scalars"]} == {"test"}
    metadata = fitted.SummaryMetadata("custom_scalars__config__")
    assert metadata.plugin_data.plugin_name == "custom_scalars"
    layout = Layout.FromString(fitted.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    curves = [tag for chart in layout.category[0].chart for tag in chart.multiline.tag]
    assert len(curves) == 8
    assert all(sum(bool(re.search(curve, tag)) for tag in scalars) == 1 for curve in curves)


def test_the_text_tab_has_the_settings(tmp_path: Path) -> None:
    fit(tmp_path, HyperParameters(), epochs=1)
    (text,) = read(tmp_path)[0].Tensors("hyperparameters/text_summary")
    assert b"| margin | 0.5 |" in text.tensor_proto.string_val[0]


def test_color_pictures_have_a_frame_in_the_color_of_their_class() -> None:
    images = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    shown = tinted(images, torch.tensor([3, 13]))
    assert torch.equal(shown[:, :, 2:-2, 2:-2], images[:, :, 2:-2, 2:-2])
    color = torch.tensor(list(bytes.fromhex(class_color(3)[1:]))) / 255
    for side in (shown[:, :, :2], shown[:, :, -2:], shown[..., :2], shown[..., -2:]):
        assert torch.allclose(side, color.view(1, 3, 1, 1).expand_as(side))
