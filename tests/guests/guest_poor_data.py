"""Six data modules that tell this package next to nothing, each in another way."""

from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


def blobs(seed: int, num_images: int = 96) -> tuple[Tensor, Tensor]:
    """Four classes of noisy images from 0 to 1, each with a bright quarter."""
    images = torch.rand(num_images, 1, 28, 28, generator=torch.Generator().manual_seed(seed)) / 2
    labels = torch.arange(num_images) % 4
    for label in range(4):
        rows, columns = 14 * (label // 2), 14 * (label % 2)
        images[labels == label, :, rows : rows + 14, columns : columns + 14] += 0.5
    return images, labels


class OnlyTraining(L.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(*blobs(0)), 16, shuffle=True)


class Splits(L.LightningDataModule):
    """Loaders of all four kinds, made by `loader`."""

    def loader(self, seed: int) -> DataLoader:
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader:
        return self.loader(0)

    def val_dataloader(self) -> DataLoader:
        return self.loader(1)

    def test_dataloader(self) -> DataLoader:
        return self.loader(2)


class SeveralLoaders(Splits):
    """Two loaders for each split that is measured, a long and a short one."""

    def loader(self, seed: int) -> DataLoader:
        return DataLoader(TensorDataset(*blobs(seed)), 16)

    def test_dataloader(self) -> Any:
        images, labels = blobs(2)
        parts = slice(0, 70), slice(70, None)
        return [DataLoader(TensorDataset(images[part], labels[part]), 16) for part in parts]

    predict_dataloader = test_dataloader


class DictBatches(Splits):
    def loader(self, seed: int) -> DataLoader:
        items: Any = [{"label": int(label), "image": image} for image, label in zip(*blobs(seed), strict=True)]
        return DataLoader(items, 16)

    def predict_dataloader(self) -> DataLoader:
        return self.loader(2)


class Int32Labels(Splits):
    def __init__(self, dtype: str = "int32") -> None:
        super().__init__()
        self.dtype = dtype

    def loader(self, seed: int) -> DataLoader:
        images, labels = blobs(seed)
        return DataLoader(TensorDataset(images, labels.to(getattr(torch, self.dtype))), 16)


class LabelledBatch(NamedTuple):
    label: list[int]
    image: Tensor


def collate(items: list[Any]) -> LabelledBatch:
    return LabelledBatch([int(label) for _, label in items], torch.stack([image for image, _ in items]))


class ListLabels(Splits):
    """Labels are lists, and properties fail before setup."""

    def setup(self, stage: str) -> None:
        self.sets = [TensorDataset(*blobs(seed)) for seed in range(3)]

    @property
    def num_val(self) -> int:
        return len(self.sets[1])

    @property
    def class_names(self) -> list[str]:
        return ["north-west", "north-east", "south-west", "south-east"][: len(self.sets) + 1]

    def loader(self, seed: int) -> DataLoader:
        return DataLoader(self.sets[seed], 16, collate_fn=collate)


class BytesWithoutValidation(L.LightningDataModule):
    num_classes = 4
    num_test = None

    def loader(self, seed: int) -> DataLoader:
        images, labels = blobs(seed)
        return DataLoader(TensorDataset((images * 255).to(torch.uint8), labels.to(torch.uint8)), 16)

    def train_dataloader(self) -> DataLoader:
        return self.loader(0)

    def test_dataloader(self) -> DataLoader:
        return self.loader(2)
