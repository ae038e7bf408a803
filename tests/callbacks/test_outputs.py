"""Callbacks beside steps, batches, heads and loaders of a stranger's: none breaks a run, each warns once."""

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import QUIET
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from arcface_pl import ArcFaceModule, SimpleCNN
from arcface_pl.callbacks import (
    AngleHistograms,
    ConfusionMatrix,
    EmbeddingProjector,
    EvaluationFigures,
    HealthCheck,
    HyperParameters,
    ThresholdCalibration,
)
from arcface_pl.callbacks.outputs import ScoredBatch, scored_batch, share_of_rows
from arcface_pl.errors import DataError
from arcface_pl.heads import ArcFaceHead

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The ``compute`` method of metric"),  # a step that scores nothing
    pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__`"),
]
CLASSES = 4
READ_VALIDATION = {
    "AngleHistograms",
    "ConfusionMatrix",
    "EmbeddingProjector",
    "EvaluationFigures",
    "HealthCheck",
    "ThresholdCalibration",
}


def callbacks() -> list[L.Callback]:
    return [
        AngleHistograms(),
        ConfusionMatrix(),
        EmbeddingProjector(num_images=20),
        EvaluationFigures(num_images=20),
        HyperParameters(),
        HealthCheck(),
        ThresholdCalibration(num_images=20),
    ]


def images(count: int = 64, channels: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, 8, 8, generator=generator), torch.arange(count) % CLASSES


def run(
    folder: Path, module: L.LightningModule, train: Any, val: Any, *, logger: Any = None, test: bool = True
) -> dict[str, Counter]:
    """Train and test with every callback that reads outputs; returns each callback's warnings and their counts."""
    logger = TensorBoardLogger(folder, name="", version="run") if logger is None else logger
    own = {"logger": logger, "callbacks": callbacks(), "default_root_dir": folder, "num_sanity_val_steps": 2}
    trainer = L.Trainer(**{**QUIET, **own}, max_epochs=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, train, val)
        trainer.save_checkpoint(folder / "model.ckpt")
        if test:
            trainer.test(module, val, verbose=False)
    said: dict[str, Counter] = {}
    for each in caught:
        name, _, text = str(each.message).partition(", ")
        if name in {type(callback).__name__ for callback in trainer.callbacks}:  # type: ignore[attr-defined]
            said.setdefault(name, Counter())[text] += 1
    return said


def tags(folder: Path) -> set[str]:
    """Images and histograms that the run has drawn."""
    found: set[str] = set()
    for file in (folder / "run").glob("events.*"):
        drawn = EventAccumulator(str(file)).Reload().Tags()
        found |= {*drawn["images"], *drawn["histograms"]}
    return found


def module(kind: type[ArcFaceModule] = ArcFaceModule, channels: int = 1) -> ArcFaceModule:
    torch.manual_seed(0)
    return kind(SimpleCNN(8, in_channels=channels, image_size=8), ArcFaceHead(8, CLASSES))


def loader(channels: int = 1) -> DataLoader:
    return DataLoader(TensorDataset(*images(channels=channels)), batch_size=16)


class ReturnsLoss(ArcFaceModule):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.head.loss(self(batch[0]), batch[1])

    test_step = validation_step


class ReturnsNothing(ReturnsLoss):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        super().validation_step(batch, batch_idx)

    test_step = validation_step


class ReturnsDict(ReturnsLoss):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().validation_step(batch, batch_idx)}

    test_step = validation_step


class ReturnsPart(ArcFaceModule):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        embeddings = self(batch[0])
        return {"embeddings": embeddings, "labels": batch[1], "predictions": self.head(embeddings).argmax(1)}

    test_step = validation_step


@pytest.mark.parametrize(
    ("kind", "got"), [(ReturnsLoss, "Tensor"), (ReturnsNothing, "NoneType"), (ReturnsDict, "a dict with loss")]
)
def test_a_step_without_scores_breaks_nothing_and_each_callback_warns_once(
    tmp_path: Path, kind: type[ArcFaceModule], got: str
) -> None:
    said = run(tmp_path, module(kind), loader(), loader())
    assert set(said) == READ_VALIDATION
    for found in said.values():
        assert list(found.values()) == [1]
        assert f"got {got}; expected a dict with " in next(iter(found))
    assert "target_angle, nearest_other_angle" in next(iter(said["AngleHistograms"]))
    assert not tags(tmp_path)
    assert "calibration" not in torch.load(tmp_path / "model.ckpt", weights_only=True)


def test_a_step_that_returns_some_of_it_feeds_what_needs_no_more(tmp_path: Path) -> None:
    said = run(tmp_path, module(ReturnsPart), loader(), loader())
    assert set(said) == {"AngleHistograms", "EvaluationFigures", "ThresholdCalibration"}
    drawn = {f"{split}/{name}" for split in ("val", "test") for name in ("confusion_matrix", "roc", "scores")}
    assert tags(tmp_path) == drawn
    assert list((tmp_path / "run").glob("*/val_embeddings"))


class DictBatches(ArcFaceModule):
    """Batches are dicts; the steps know."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch["photo"], batch["kind"]), batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return super().validation_step((batch["photo"], batch["kind"]), batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return super().test_step((batch["photo"], batch["kind"]), batch_idx)


class Dicts(TensorDataset):
    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return {"photo": image, "kind": label}


def test_batches_of_another_shape_are_drawn_without_their_images(tmp_path: Path) -> None:
    batches = DataLoader(Dicts(*images()), batch_size=16)
    said = run(tmp_path, module(DictBatches), batches, batches)
    assert set(said) == {"EmbeddingProjector", "EvaluationFigures", "HealthCheck"}
    assert all(list(found.values()) == [1] for found in said.values())
    assert "got dict; expected (images, labels)" in next(iter(said["HealthCheck"]))
    assert {"val/roc", "val/confusion_matrix", "val/angle/target_degrees"} <= tags(tmp_path)
    assert "val/mistakes" not in tags(tmp_path)
    assert "calibration" in torch.load(tmp_path / "model.ckpt", weights_only=True)


def test_images_of_five_channels_are_not_shown(tmp_path: Path) -> None:
    said = run(tmp_path, module(channels=5), loader(5), loader(5))
    assert set(said) == {"EmbeddingProjector", "EvaluationFigures"}
    assert "val/roc" in tags(tmp_path)


class Stream(IterableDataset):
    """Has no length."""

    def __iter__(self) -> Iterator[Any]:
        yield from zip(*images(), strict=True)


def test_a_loader_without_a_length(tmp_path: Path) -> None:
    assert not run(tmp_path, module(), loader(), DataLoader(Stream(), batch_size=16))
    assert {"val/roc", "val/mistakes"} <= tags(tmp_path)
    (folder,) = (tmp_path / "run").glob("*/val_embeddings")
    assert len((folder / "tensors.tsv").read_text().splitlines()) == 20


class Plain(L.LightningModule):
    """Knows nothing of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/accuracy", (self.network(batch[0]).argmax(1) == batch[1]).float().mean())

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_module_without_head_and_backbone(tmp_path: Path) -> None:
    said = run(tmp_path, Plain(), loader(), loader())
    assert set(said) == {*READ_VALIDATION, "HyperParameters"}
    assert all(count == 1 for found in said.values() for count in found.values())
    assert any("head.num_classes: got None" in text for text in said["ConfusionMatrix"])


def test_no_logger(tmp_path: Path) -> None:
    assert not run(tmp_path, module(), loader(), loader(), logger=False)


class Named(L.LightningDataModule):
    """Names two of four classes."""

    class_names = ("a", "b")

    def train_dataloader(self) -> DataLoader:
        return loader()

    val_dataloader = test_dataloader = train_dataloader


def test_a_data_module_that_names_too_few_classes_is_refused_before_training(tmp_path: Path) -> None:
    """No command could use its checkpoint."""
    with pytest.raises(DataError, match="number of data.class_names: got 2; expected 4"):
        run(tmp_path, module(), Named(), None, test=False)


def test_labels_that_are_no_class_are_left_out(tmp_path: Path) -> None:
    """A step of a stranger's that returns its own labels."""
    matrix, pl_module = ConfusionMatrix(), module()
    trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    matrix.on_validation_epoch_start(trainer, pl_module)
    outputs = {"labels": torch.tensor([0, -1, 4, 1, 2]), "predictions": torch.tensor([0, 1, 1, 3, -7])}
    matrix.on_validation_batch_end(trainer, pl_module, outputs, None, 0)
    counted = [divmod(int(cell), 4) for cell in torch.cat(matrix._cells) if cell >= 0]
    assert counted == [(0, 0), (1, 3)]


@pytest.mark.parametrize(
    "outputs",
    [
        {"embeddings": torch.zeros(3, 2), "labels": torch.zeros(4)},
        {"embeddings": torch.zeros(3), "labels": torch.zeros(3)},
        {"embeddings": torch.zeros(3, 2), "labels": torch.tensor(1)},
        {"embeddings": torch.zeros(3, 2), "labels": [0, 1, 2]},
    ],
)
def test_outputs_of_other_shapes_are_refused(outputs: Any) -> None:
    with pytest.warns(UserWarning, match="Callback, output of the validation or test step: got a dict with embeddings"):
        assert scored_batch(L.Callback(), outputs, "embeddings", "labels") is None


def test_the_module_returns_what_is_documented() -> None:
    pl_module = module().eval()
    scored = pl_module.scores["val"].update_from(pl_module.head, pl_module(images()[0]), images()[1])
    assert set(ScoredBatch.__annotations__) == set(scored)
    assert scored_batch(L.Callback(), scored, *ScoredBatch.__annotations__) is scored


def test_shares_of_batches_add_up() -> None:
    labels = torch.zeros(10)
    assert [len(share_of_rows(labels, 25, 5, index)) for index in range(5)] == [5] * 5
    assert [len(share_of_rows(labels, 2, 5, index)) for index in range(5)] == [1] * 5  # fewer images than processes
    assert [len(share_of_rows(labels, 25, float("inf"), index)) for index in range(4)] == [10, 10, 5, 0]
    assert share_of_rows(labels, 2, 1, 0).tolist() == [0, 9]
