"""Transforms of users in the place of the built-in augmentation."""

import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import QUIET
from torchvision.transforms import v2

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule
from arcface_pl.data import ImageFolderDataModule
from arcface_pl.errors import DataError
from arcface_pl.preprocessing import Preprocessor


def noise(image: torch.Tensor) -> torch.Tensor:
    """Draws from all three generators."""
    image = image.float() / 255 * random.uniform(0.5, 1)
    drawn = torch.rand(image.shape) * np.random.rand()  # noqa: NPY002  # the global generator is what is tested
    return (image + 0.1 * drawn).clamp(0, 1)


RANDOM = [v2.RandomHorizontalFlip(), v2.RandomAffine(10, translate=(0.1, 0.1)), noise]


def digits(**kwargs: Any) -> MNISTDataModule:
    data = MNISTDataModule(dataset="digits", **{"batch_size": 100, "seed": 1, **kwargs})
    data.prepare_data()
    data.setup("fit")
    return data


def test_a_transform_takes_the_place_of_the_augmentation() -> None:
    data = digits(transform=v2.RandomInvert(p=1.0), normalize=False)
    plain = digits(augment=False, normalize=False)
    (images, labels), (other, same) = next(iter(data.train_dataloader())), next(iter(plain.train_dataloader()))
    assert torch.equal(labels, same)
    torch.testing.assert_close(images, 1 - other)
    assert torch.equal(next(iter(data.val_dataloader()))[0], next(iter(plain.val_dataloader()))[0])


def test_an_evaluation_transform_changes_all_but_training() -> None:
    data, plain = digits(eval_transform=v2.RandomInvert(p=1.0), augment=False), digits(augment=False)
    for name in ("val", "test", "predict"):
        one, other = (next(iter(getattr(each, f"{name}_dataloader")()))[0] for each in (data, plain))
        assert not torch.allclose(one, other)
    assert torch.equal(next(iter(data.train_dataloader()))[0], next(iter(plain.train_dataloader()))[0])


def test_batches_are_a_function_of_seed_and_epoch_and_disturb_no_generator() -> None:
    data = digits(transform=RANDOM)
    states = random.getstate(), torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = [images for images, _ in data.train_dataloader()]
    assert random.getstate() == states[0]
    assert torch.equal(torch.random.get_rng_state(), states[1])
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002
    torch.rand(5), random.random()
    again = digits(transform=RANDOM)
    assert all(map(torch.equal, first, (images for images, _ in again.train_dataloader())))
    loader = again.train_dataloader()
    loader.set_epoch(1)
    assert not torch.equal(first[0], next(iter(loader))[0])


def test_it_is_the_same_in_memory_and_in_worker_processes(tmp_path: Path) -> None:
    for label in "ab":
        for number in range(12):
            (tmp_path / label).mkdir(exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    common: dict[str, Any] = {"image_size": 16, "batch_size": 5, "transform": RANDOM, "seed": 2}
    batches = []
    for settings in ({"resident": True, "num_workers": 0}, {"resident": False, "num_workers": 2}):
        data = ImageFolderDataModule(str(tmp_path), **common, **settings)
        data.setup("fit")
        batches.append([images for images, _ in data.train_dataloader()])
    assert all(map(torch.equal, *batches))


def fit(path: Path | None = None, save_at: int = -1, save: Path | None = None, transform: Any = RANDOM) -> Any:
    class Save(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == save_at:
                trainer.save_checkpoint(save)

    L.seed_everything(3, verbose=False)
    module = ArcFaceModule(FastCNN(8, width=4), ArcFaceHead(8, 10))
    trainer = L.Trainer(**QUIET, max_epochs=2, callbacks=[Save()])
    data = MNISTDataModule(dataset="digits", batch_size=400, transform=transform)
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    return module.state_dict()


def test_a_resumed_run_ends_with_the_weights_of_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = fit(save_at=5, save=tmp_path / "middle.ckpt")
    resumed = fit(tmp_path / "middle.ckpt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(DataError, match=r"data\.transform: the checkpoint has .\(RandomHorizontalFlip"):
        fit(tmp_path / "middle.ckpt", transform=v2.RandomHorizontalFlip())


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (v2.Resize(20), r"data.transform: got '\(1, 20, 20\)'"),
        ([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.1])], "Leave out Normalize"),
        (v2.ToDtype(torch.float32), "torch.float32 from 0 to 251"),
        (lambda image: image.numpy(), "got 'ndarray'"),
        (lambda image: image.missing, "AttributeError"),
    ],
)
def test_what_gives_no_image_of_the_shape_is_refused_before_training(transform: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        digits(transform=transform)


def test_what_cannot_be_called_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="transform: got 'flip'"):
        MNISTDataModule(dataset="digits", transform=["flip"])


def test_a_function_has_the_same_name_in_every_process() -> None:
    assert "0x" not in str(digits(transform=[noise, lambda image: image]).augmentation)


def test_a_checkpoint_tells_of_an_evaluation_transform_it_cannot_hold(caplog: pytest.LogCaptureFixture) -> None:
    facts = {"preprocessing": digits(eval_transform=v2.RandomInvert(p=1.0)).preprocessing}
    Preprocessor.from_data_facts(facts, in_channels=1, image_size=28)
    assert "trained with data.eval_transform (RandomInvert" in caplog.text


def test_a_saved_config_without_an_augmentation_of_its_own_keeps_the_built_in_one(tmp_path: Path) -> None:
    for cls, place in ((MNISTDataModule, {"dataset": "digits"}), (ImageFolderDataModule, {"root": str(tmp_path)})):
        assert str(cls(**place, augmentation=None).augmentation) == str(cls(**place).augmentation) != "None"
