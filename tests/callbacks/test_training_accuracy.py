"""Training accuracy: equal to scoring the images by hand, and without a trace in the run."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from tiny_runs import assert_the_same, fit_digits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from arcface_pl import ArcFaceModule, ImageFolderDataModule, MNISTDataModule
from arcface_pl.callbacks import ExponentialMovingAverage, TrainingAccuracy
from arcface_pl.cli.config import BASE_CONFIG, read_config


class Notes(L.Callback):
    """The two accuracies after each epoch, and the weights as validation sees them."""

    def __init__(self) -> None:
        self.logged: list[tuple[float, float]] = []
        self.weights: dict[str, Tensor] = {}

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.weights = {name: each.clone() for name, each in pl_module.state_dict().items()}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        metrics = trainer.callback_metrics
        self.logged.append((float(metrics["train/accuracy"]), float(metrics["train/margin_accuracy"])))


def by_hand(module: ArcFaceModule, images: Tensor, labels: Tensor) -> tuple[float, float]:
    module.eval()
    with torch.no_grad():
        embeddings = module(images)
        plain, with_margin = module.head(embeddings), module.head(embeddings, labels)
    return tuple((logits.argmax(1) == labels).double().mean().item() for logits in (plain, with_margin))  # type: ignore[return-value]


def training_images(num_images: int | None) -> tuple[Tensor, Tensor]:
    data = MNISTDataModule(dataset="digits", augment=False, seed=3)
    data.prepare_data()
    data.setup()
    images, labels = (torch.cat(part) for part in zip(*data.train_sample_dataloader(num_images), strict=True))
    return images, labels


@pytest.mark.parametrize("num_images", [None, 100])
def test_it_is_what_scoring_by_hand_gives_and_leaves_no_trace(num_images: int | None) -> None:
    notes = Notes()
    module = fit_digits([TrainingAccuracy(num_images), notes])
    images, labels = training_images(num_images)
    assert len(labels) == (num_images or 1294)
    assert len(labels.unique()) == 10
    assert notes.logged[-1] == pytest.approx(by_hand(module, images, labels), abs=1e-7)
    assert notes.logged[-1][0] > notes.logged[-1][1]
    assert_the_same(module, fit_digits([]))


def test_averaged_weights_are_measured_where_there_are_any() -> None:
    notes = Notes()
    module = fit_digits([ExponentialMovingAverage(0.9), TrainingAccuracy(), notes])
    trained = {name: each.clone() for name, each in module.state_dict().items()}
    module.load_state_dict(notes.weights)  # those that validation saw
    assert notes.logged[-1] == pytest.approx(by_hand(module, *training_images(None)), abs=1e-7)
    plain = fit_digits([ExponentialMovingAverage(0.9)])
    assert all(torch.equal(each, trained[name]) for name, each in plain.state_dict().items())


class Noisy(Dataset):
    """A data set that draws from every generator there is."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels, self.reads = images, labels, 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        noise = 0.01 * (torch.randn(1) + random.random() + np.random.random())  # noqa: NPY002  # the generator that others use
        return self.images[index] + noise.float(), self.labels[index]


def test_somebody_elses_loader_is_read_as_it_is_with_one_warning(
    tiny_module: Any, tiny_batch: Any, make_trainer: Any
) -> None:
    def fit(callbacks: list[L.Callback]) -> ArcFaceModule:
        L.seed_everything(5, verbose=False)
        module, data = tiny_module(), Noisy(*tiny_batch(32))
        trainer = make_trainer(max_epochs=2, callbacks=callbacks)
        trainer.fit(module, DataLoader(data, 8, shuffle=True), DataLoader(data, 8))
        return module

    notes = Notes()
    with pytest.warns(UserWarning, match="with any augmentation it has") as warned:
        measured = fit([TrainingAccuracy(16), notes])
    assert len([each for each in warned if "TrainingAccuracy" in str(each.message)]) == 1
    assert len(notes.logged) == 2
    assert_the_same(measured, fit([]))


def test_what_cannot_be_measured_is_said_once(tiny_module: Any, tiny_batch: Any, make_trainer: Any) -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter([tiny_batch(8)] * 2)

    trainer = make_trainer(max_epochs=1, callbacks=[TrainingAccuracy()])
    with pytest.warns(UserWarning, match="expected a DataLoader over a Dataset. Training accuracy is not measured"):
        trainer.fit(tiny_module(), DataLoader(Stream(), batch_size=None))
    assert "train/accuracy" not in trainer.callback_metrics


def test_files_are_measured_as_well(tmp_path: Path, make_trainer: Any, tiny_module: Any) -> None:
    from PIL import Image

    for label in range(4):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for number in range(6):
            Image.new("L", (28, 28), 60 * label + number).save(tmp_path / "images" / str(label) / f"{number}.png")
    found = []
    for resident in (True, False):
        data = ImageFolderDataModule(
            str(tmp_path / "images"),
            image_size=28,
            in_channels=1,
            batch_size=8,
            num_workers=0,
            resident=resident,
            val_fraction=0.2,
            test_fraction=0.2,
        )
        notes = Notes()
        L.seed_everything(1, verbose=False)
        trainer = make_trainer(max_epochs=1, callbacks=[TrainingAccuracy(10), notes])
        trainer.fit(tiny_module(), datamodule=data)
        found.append(notes.logged)
    assert found[0] == found[1]


@pytest.mark.parametrize("num_images", [0, -1, 1.5, True])
def test_a_wrong_number_is_refused(num_images: Any) -> None:
    with pytest.raises(ValueError, match="num_images"):
        TrainingAccuracy(num_images)


def test_the_source_recipe_measures_on_all_images() -> None:
    base = {each["class_path"]: each.get("init_args") for each in read_config(BASE_CONFIG)["trainer"]["callbacks"]}
    assert base["arcface_pl.callbacks.TrainingAccuracy"] == {"num_images": 2000}
