"""Classes of a user's own, each written as somebody would who knows Lightning and not this package."""

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from arcface_pl import ArcFaceModule


class Net(nn.Module):
    """A network without any attribute that this package's backbones have.

    Args:
        width: Width of the embeddings.
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, width))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Module(ArcFaceModule):
    """ArcFaceModule with an argument more.

    Args:
        extra: Added to nothing.
    """

    def __init__(self, *args, extra: float = 0.5, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.extra = extra


class PlainModule(L.LightningModule):
    """A module that has nothing to do with this package.

    Args:
        hidden: Width of the hidden layer.
    """

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.training_step(batch, batch_idx)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test/cross_entropy", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


class Data(L.LightningDataModule):
    """Noise with labels, in plain loaders.

    Args:
        size: Number of images.
    """

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.size = size

    def train_dataloader(self) -> DataLoader:
        images = torch.randn(self.size, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(images, torch.arange(self.size) % 10), batch_size=16)

    val_dataloader = test_dataloader = train_dataloader
