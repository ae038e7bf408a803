"""Small residual network for images of about 28 x 28."""

import torch.nn.functional as F
from torch import Tensor, nn

from arcface_pl.backbones.base import Backbone
from arcface_pl.functional.checks import check_count, check_number


class Block(nn.Module):
    """Residual block of two 3 x 3 convolutions (He et al. 2016, Deep residual learning, figure 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return ReLU(features + conv(ReLU(conv(features))))."""
        change = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(features)))))
        return F.relu(features + change)


class SmallResNet(Backbone):
    """Three 3 x 3 convolutions that halve the image twice, residual blocks at that size, and one linear layer.

    Most multiplications are done at a quarter of the image's side, where activations are small and matrix units of CPUs
    and GPUs are used well. The linear layer sees the features with their positions and is followed by batch
    normalization, as in face recognition networks (Deng et al. 2019, ArcFace, section 3.1).

    Args:
        embedding_dim: Width D of the embeddings, at least 1.
        in_channels: Channels of the images, at least 1.
        image_size: Height and width of the images in pixels, at least 8.
        width: Channels of the residual blocks, at least 5; the first two convolutions have a fifth and two fifths.
        num_blocks: Residual blocks, at least 0.
        dropout: Dropout rate before the linear layer, in [0, 1).

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(
        self,
        embedding_dim: int = 64,
        in_channels: int = 1,
        image_size: int = 28,
        width: int = 160,
        num_blocks: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self._set_sizes(embedding_dim, in_channels, image_size, smallest=8)
        check_count("width", width, low=5)
        check_count("num_blocks", num_blocks, low=0)
        check_number("dropout", dropout, low=0, high=1)
        self.width, self.num_blocks, self.dropout = width, num_blocks, dropout
        first, second = width // 5, width * 2 // 5
        self.conv1 = nn.Conv2d(in_channels, first, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, width, kernel_size=3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(num_blocks)))
        self.fc = nn.Linear(width * (image_size // 8) ** 2, embedding_dim, bias=False)
        self.norm = nn.BatchNorm1d(embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images, see `Backbone.forward`."""
        self._check_images(images)
        # Pooled before batch normalization and ReLU, which then process a quarter of the values
        features = F.relu(self.norm1(F.max_pool2d(self.conv1(images), 2)))
        features = F.relu(self.norm2(self.conv2(features)))
        features = F.relu(self.norm3(F.max_pool2d(self.conv3(features), 2)))
        features = F.max_pool2d(self.blocks(features), 2).flatten(1)
        return self.norm(self.fc(F.dropout(features, self.dropout, self.training)))
