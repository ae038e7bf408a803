"""Batches that hold several images of each of their classes: contents, resume, processes, and what is refused."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tiny_runs import QUIET, SaveAt
from torch import Tensor, nn

from arcface_pl.data import Augmentation, BatchLoader, LabelledImages, MNISTDataModule
from arcface_pl.data.folders.image_files import FileLoader, ImageFiles
from arcface_pl.data.parts import small_classes
from arcface_pl.data.split import _without_repeats, grouped_order
from arcface_pl.preprocessing import Preprocessor

PLAIN = ((0.0,), (1.0,))


def images_of(counts: list[int]) -> tuple[LabelledImages, Tensor]:
    """Images whose first pixels hold their number, and the class of each."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    images = torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.arange(len(labels)) // 256, torch.arange(len(labels)) % 256
    return LabelledImages(images, labels), labels


def batches_of(counts: list[int], batch_size: int, epoch: int = 0, **kwargs: Any) -> list[tuple[list[int], list[int]]]:
    """Numbers of the images, and labels, of each batch."""
    data, _ = images_of(counts)
    loader = BatchLoader(data, batch_size=batch_size, shuffle=True, normalization=PLAIN, **kwargs)
    loader.set_epoch(epoch)
    found = [((255 * images[:, 0, 0, :2]).round().long(), labels.tolist()) for images, labels in loader]
    assert len(found) == len(loader)
    return [((256 * pixels[:, 0] + pixels[:, 1]).tolist(), labels) for pixels, labels in found]


def test_each_class_of_a_batch_has_exactly_that_many_different_images() -> None:
    for epoch in range(3):
        batches = batches_of([8] * 12, 16, epoch, images_per_class=4)
        assert [len(numbers) for numbers, _ in batches] == [16] * 6
        for numbers, labels in batches:
            assert sorted(torch.bincount(torch.tensor(labels)).tolist(), reverse=True)[:5] == [4, 4, 4, 4, 0]
            assert len(set(numbers)) == 16
        assert sorted(number for numbers, _ in batches for number in numbers) == list(range(96))


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("counts", [[7, 3, 12, 5, 5, 9, 8], [40, 2, 3, 4, 5], [1, 2, 30, 4], [6, 6]])
def test_every_image_comes_and_those_that_fill_groups_come_again(counts: list[int], size: int) -> None:
    batches = batches_of(counts, 2 * size, images_per_class=size)
    seen = torch.bincount(torch.tensor([number for numbers, _ in batches for number in numbers]))
    _, labels = images_of(counts)
    assert (seen >= 1).all()
    for label, count in enumerate(counts):
        drawn = -(-count // size) * size
        assert seen[labels == label].sum() == drawn
        assert set(seen[labels == label].tolist()) <= {drawn // count, -(-drawn // count)}
    for numbers, found in batches:
        held = torch.bincount(torch.tensor(found))
        assert (held % size == 0).all()
        for label in set(found):
            different = {number for number, each in zip(numbers, found, strict=True) if each == label}
            assert len(different) >= min(size, counts[label])


def test_a_frequent_class_is_spread_over_the_epoch_and_others_come_once_in_a_batch() -> None:
    batches = batches_of([200, *[8] * 30], 16, images_per_class=4)  # 50 + 60 groups in 28 batches
    frequent = torch.tensor([labels.count(0) for _, labels in batches[:-2]])
    assert frequent.min() > 0
    assert frequent.max() <= 12
    for _, labels in batches[:-2]:
        assert torch.bincount(torch.tensor(labels))[1:].max() <= 4


def test_balanced_every_class_has_as_many_groups_up_to_one() -> None:
    counts = [40, 4, 9, 12]
    favored = set()
    for epoch in range(4):
        batches = batches_of(counts, 8, epoch, images_per_class=4, balance=True)
        drawn = torch.bincount(torch.tensor([each for _, labels in batches for each in labels]))
        assert drawn.sum() == -(-sum(counts) // 4) * 4
        assert set(drawn.tolist()) <= {16, 20}
        favored.add(int(drawn.argmax()))
    assert len(favored) > 1  # the remainder goes to others in each epoch


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("groups", [12, 13, 17])
def test_processes_share_whole_groups(groups: int, world_size: int) -> None:
    counts = [3 * each for each in torch.bincount(torch.arange(groups) % 5).tolist()]
    shares = [
        batches_of(counts, 6, 1, images_per_class=3, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    together = [number for share in shares for numbers, _ in share for number in numbers]
    assert len(together) == len(set(together)) == 3 * (groups - groups % world_size)
    for share in shares:
        for _, labels in share:
            assert (torch.bincount(torch.tensor(labels)) % 3 == 0).all()
    assert all(len(numbers) in (6, 9) for share in shares for numbers, _ in share[:1])


def test_a_single_group_left_over_joins_the_batch_before() -> None:
    assert [len(labels) for _, labels in batches_of([4] * 5, 8, images_per_class=4)] == [8, 12]
    assert [len(labels) for _, labels in batches_of([4] * 7, 12, images_per_class=4)] == [12, 16]
    assert [len(labels) for _, labels in batches_of([4] * 8, 12, images_per_class=4)] == [12, 12, 8]


def test_from_any_batch_on_an_epoch_is_the_same() -> None:
    kwargs: dict[str, Any] = {"images_per_class": 2, "seed": 3, "augmentation": Augmentation(rotation=10, shift=1)}
    data, _ = images_of([5, 6, 7, 8, 3])
    loader = BatchLoader(data, batch_size=6, shuffle=True, normalization=PLAIN, **kwargs)
    loader.set_epoch(2)
    whole = list(loader)
    for done in range(len(whole)):
        position = (2, done)
        rest = BatchLoader(
            data, batch_size=6, shuffle=True, normalization=PLAIN, position=lambda place=position: place, **kwargs
        )
        for (images, labels), (images_whole, labels_whole) in zip(rest, whole[done:], strict=True):
            assert torch.equal(images, images_whole)
            assert torch.equal(labels, labels_whole)


def test_images_in_files_give_the_batches_of_images_in_memory(tmp_path: Path) -> None:
    from PIL import Image

    from arcface_pl.data.labelled import list_files

    data, labels = images_of([4, 5, 6])
    for number, image in enumerate(data.images):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{number:02}.png")
    names = [f"{number:02}.png" for number in range(len(labels))]
    files = ImageFiles(
        tmp_path, list_files(zip(names, [0] * len(names), labels.tolist(), strict=True)), Preprocessor(8, 1, *PLAIN)
    )
    kwargs: dict[str, Any] = {"batch_size": 4, "shuffle": True, "normalization": PLAIN, "images_per_class": 2}
    for one, other in zip(FileLoader(files, num_workers=0, **kwargs), BatchLoader(data, **kwargs), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_an_order_is_a_function_of_the_generator() -> None:
    labels = torch.arange(60) % 7
    orders = [grouped_order(labels, 3, [4] * 5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


@pytest.mark.parametrize(
    ("images_per_class", "batch_size", "line"),
    [
        (
            5,
            64,
            "images_per_class: got 5; expected a divisor of data.batch_size, and at most half of it. data.batch_si",
        ),
        (64, 64, "images_per_class: got 64; expected a divisor"),
        (1, 64, "images_per_class: got 1; expected a whole number of at least 2"),
        (2.0, 64, "images_per_class: got 2.0; expected a whole number"),
        (2, 3, "images_per_class: got 2; expected a divisor .* Set a larger data.batch_size"),
    ],
)
def test_impossible_numbers_are_refused(images_per_class: Any, batch_size: int, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        MNISTDataModule(dataset="digits", batch_size=batch_size, images_per_class=images_per_class)


def test_classes_with_fewer_images_are_named_before_training() -> None:
    train, _ = images_of([5, 3, 2, 9])
    assert small_classes(train, None) == small_classes(train, 2) == []
    (notice,) = small_classes(train, 4)
    assert notice == (
        "2 of 4 classes have fewer than 4 training images: a batch repeats them to fill their groups. "
        "Set data.images_per_class 2"
    )


class Recorder(L.LightningModule):
    """Learns nothing; keeps the labels and a sum of the pixels of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[list[int], float]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        self.seen.append((labels.tolist(), images.double().sum().item()))
        return (self.weight * images.mean()).sum()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(folder: Path, steps: int, images_per_class: int | None = 4, checkpoint: Path | None = None) -> Any:
    L.seed_everything(0, verbose=False)
    module = Recorder()
    save = SaveAt(17, folder / "saved.ckpt")
    trainer = L.Trainer(callbacks=[save], **{**QUIET, "max_steps": steps, "max_epochs": -1, "default_root_dir": folder})
    data = MNISTDataModule(dataset="digits", batch_size=32, images_per_class=images_per_class, val_fraction=0)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return module.seen


def test_a_run_resumed_within_an_epoch_sees_the_next_batch(tmp_path: Path) -> None:
    whole = run(tmp_path, 60)
    assert run(tmp_path, 60, checkpoint=tmp_path / "saved.ckpt") == whole[17:]


def test_resuming_with_another_number_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 17)
    with pytest.raises(ValueError, match="images_per_class: the checkpoint has 4, this run None"):
        run(tmp_path, 20, images_per_class=None, checkpoint=tmp_path / "saved.ckpt")


def test_a_group_that_had_to_wait_comes_first_in_the_next_batch() -> None:
    classes, nobody_often = torch.tensor([0, 0, 1, 2, 3, 4]), torch.zeros(5, dtype=torch.bool)
    order = _without_repeats(classes, torch.arange(6), nobody_often, [2, 2, 2])
    assert order.tolist() == [0, 2, 1, 3, 4, 5]
