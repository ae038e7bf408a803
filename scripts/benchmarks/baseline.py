"""The original training loop, written plainly: the baseline of the other variants."""

import gzip
from pathlib import Path

import lightning as L
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["OriginalCNN", "OriginalLoss", "OriginalModule", "original_loader", "unpack"]

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class OriginalLoss(nn.Module):
    """The original program's loss: dense one-hot, acos, no guard past pi - margin."""

    def __init__(
        self, num_classes: int = 10, embedding_dim: int = 128, scale: float = 30.0, margin: float = 0.5
    ) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(embedding_dim, num_classes)))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        cosine = F.normalize(embeddings, dim=1) @ F.normalize(self.weight, dim=0)
        theta = torch.acos(cosine.clamp(-1.0 + 1e-7, 1.0 - 1e-7))
        one_hot = F.one_hot(labels, cosine.shape[1])
        return F.cross_entropy(self.scale * (one_hot * torch.cos(theta + self.margin) + (1 - one_hot) * cosine), labels)


class OriginalCNN(nn.Module):
    """The original network, ReLU after pooling and all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 7 * 7, 128)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 1, 28, 28)."""
        images = F.relu(F.max_pool2d(self.conv1(images), 2))
        images = F.relu(F.max_pool2d(self.conv2(images), 2))
        return self.fc1(images.flatten(1))


class OriginalModule(L.LightningModule):
    """The same network and loss as a plain LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.loss_function = OriginalCNN(), OriginalLoss()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss, logged as everybody does."""
        images, labels = batch
        loss = self.loss_function(self.network(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the original program's Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.001)


def original_loader(data_dir: str, num_images: int) -> torch.utils.data.DataLoader:
    """Make the original program's loader: one PIL image after another, each turned into a tensor, batches of 64."""
    transform = torchvision.transforms.ToTensor()
    images = torchvision.datasets.MNIST(data_dir, train=True, download=False, transform=transform)
    subset = torch.utils.data.Subset(images, range(num_images))
    return torch.utils.data.DataLoader(subset, batch_size=64, shuffle=True)


def unpack(data_dir: Path, target: Path) -> None:
    """Lay out MNIST for torchvision, which reads it uncompressed only."""
    raw = target / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        packed = data_dir / "MNIST" / "raw" / f"{name}.gz"
        plain = packed.with_suffix("")
        (raw / name).write_bytes(gzip.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes())
