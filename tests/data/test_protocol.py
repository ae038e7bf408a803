"""What is read of data modules that are not this package's."""

from collections import namedtuple
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from arcface_pl.data.protocol import check_loaders, complete, fact, facts_of, images_and_labels
from arcface_pl.errors import DataError

IMAGES = torch.rand(4, 3, 8, 8)
LABELS = torch.tensor([0, 1, 2, 1])
Swapped = namedtuple("Swapped", ["target", "img"])
Unnamed = namedtuple("Unnamed", ["first", "second"])


class Data(L.LightningDataModule):
    def __init__(self, images: Tensor = IMAGES, labels: Any = LABELS, **told: Any) -> None:
        super().__init__()
        self.images, self.labels = images, labels
        vars(self).update(told)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(self.images, self.labels), batch_size=3, shuffle=True)


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS),
        [IMAGES, LABELS, "more"],
        {"label": LABELS, "image": IMAGES, "path": ["a"] * 4},
        {"pixel_values": IMAGES, "labels": LABELS.tolist()},
        Swapped(LABELS.numpy(), IMAGES),
        Unnamed(IMAGES, LABELS.tolist()),
    ],
    ids=["tuple", "list", "dict", "dict-list", "named", "unnamed"],
)
def test_a_batch_of_any_form_is_images_and_labels(batch: Any) -> None:
    images, labels = images_and_labels(batch)
    assert images is IMAGES
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize("batch", [IMAGES, [IMAGES], {"x": IMAGES}])
def test_images_alone_have_no_labels(batch: Any) -> None:
    images, labels = images_and_labels(batch)
    assert images is IMAGES
    assert labels is None


def test_bytes_are_a_scale_from_0_to_1() -> None:
    images, _ = images_and_labels((torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8), [1]))
    assert images.tolist() == [[[[0, pytest.approx(0.2), 1]]]]


@pytest.mark.parametrize(
    ("batch", "word"),
    [
        ({"photo": IMAGES, "label": LABELS}, "photo"),
        ("text", "str"),
        ((IMAGES, ["cat", "dog"]), "cat"),
        ((np.zeros((2, 3, 8, 8)), LABELS), "ndarray"),
        ((), "tuple"),
    ],
)
def test_a_batch_that_cannot_be_read_is_named(batch: Any, word: str) -> None:
    with pytest.raises(DataError, match=word):
        images_and_labels(batch)


def test_what_is_not_told_is_counted_and_measured() -> None:
    data = Data()
    before = torch.random.get_rng_state()
    complete(data)
    assert torch.equal(before, torch.random.get_rng_state())
    assert (data.num_classes, data.class_names, data.class_counts) == (3, ["0", "1", "2"], [1, 2, 1])
    assert (data.in_channels, data.image_size, data.num_train, data.batch_size) == (3, 8, 4, 3)


def test_what_is_told_is_kept() -> None:
    data = Data(num_classes=np.int64(5), class_names=[*"abcde"], image_size=9)
    complete(data)
    assert (data.num_classes, data.class_names, data.image_size) == (5, [*"abcde"], 9)


def test_a_number_of_classes_from_elsewhere_saves_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arcface_pl.data.protocol._count", lambda *_: pytest.fail("counted"))
    data = Data()
    complete(data, 7)
    assert fact(data, "num_classes") == 7
    assert len(fact(data, "class_names")) == 7


def test_property_that_fails_counts_as_missing() -> None:
    class Late(Data):
        num_val = property(lambda self: len(None))  # type: ignore[arg-type]

    assert fact(Late(), "num_val", "unknown") == "unknown"


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        while True:
            yield IMAGES[0], 0


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (Data(class_names=["a", "b"]), "number of data.class_names: got 2"),
        (Data(class_counts=[1, 2, 3, 4]), "number of data.class_counts: got 4"),
        (Data(labels=torch.tensor([0, 10**12, 1, 1])), "data: labels of train_dataloader: got 1000000000000"),
        (Data(labels=torch.tensor([0, -1, 1, 1])), "got -1"),
        (Data(labels=torch.tensor([0.0, 1.0, 1.0, 2.0])), "torch.float32"),
        (Data(labels=torch.eye(4, dtype=torch.int64)), r"\(3, 4\)"),
        (Data(labels=torch.zeros(4, dtype=torch.int64)), "1 class"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_at_once(data: Data, word: str) -> None:
    with pytest.raises(DataError, match=word):
        complete(data)


def test_batches_without_an_end_are_not_counted() -> None:
    data = Data()
    data.train_dataloader = lambda: DataLoader(Endless(), batch_size=2)  # type: ignore[method-assign]
    with pytest.raises(DataError, match="no end.*num_classes"):
        complete(data)


def test_the_first_batch_of_each_split_is_checked_before_training() -> None:
    data = Data(num_classes=3)
    assert check_loaders(data, "fit")
    assert not check_loaders(data, "test")
    data.test_dataloader = lambda: DataLoader(TensorDataset(IMAGES, LABELS + 1), batch_size=4)  # type: ignore[method-assign]
    with pytest.raises(DataError, match="labels of test_dataloader: got 3"):
        check_loaders(data, "test")


def test_a_checkpoint_is_told_what_the_model_needs_without_its_data() -> None:
    told = {"class_names": ["a", "b"], "normalization": ((0.1,), (0.3,)), "in_channels": 1, "image_size": 8}
    found = facts_of(Data(**told))
    assert {name: found[name] for name in told} == told
    assert found["name"] == "Data"
