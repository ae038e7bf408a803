"""Data of one's own: a plain LightningDataModule that knows nothing of arcface_pl."""

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset


class Blobs(L.LightningDataModule):
    """Four classes of noisy 28 x 28 images, each with a bright quarter.

    Args:
        num_images: Images in each split.
        batch_size: Images per step.
    """

    num_classes = 4

    def __init__(self, num_images: int = 64, batch_size: int = 16) -> None:
        super().__init__()
        self.num_images, self.batch_size = num_images, batch_size

    def _loader(self, seed: int) -> DataLoader:
        images = torch.rand(self.num_images, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
        labels = torch.arange(self.num_images) % 4
        for label in range(4):
            rows, columns = 14 * (label // 2), 14 * (label % 2)
            images[labels == label, :, rows : rows + 14, columns : columns + 14] += 1
        return DataLoader(TensorDataset(images, labels), self.batch_size)

    def train_dataloader(self) -> DataLoader:
        return self._loader(0)

    def val_dataloader(self) -> DataLoader:
        return self._loader(1)

    def test_dataloader(self) -> DataLoader:
        return self._loader(2)
