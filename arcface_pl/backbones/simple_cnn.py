"""The source document's network."""

import torch
from torch import Tensor, nn

from arcface_pl.backbones.base import Backbone, check_size

__all__ = ["SimpleCNN"]


class SimpleCNN(Backbone):
    """The source document's network: two 3 x 3 convolutions, each max-pooled by 2, and one linear layer.

    420,352 parameters at the defaults. ReLU comes after the pooling: the two commute, and it then touches a quarter of
    the values.

    Args:
        embedding_dim: Width D of the embeddings, at least 1.
        in_channels: Channels of the images, at least 1.
        image_size: Height and width of the images in pixels, at least 4.

    Raises:
        ValueError: If a size is not a whole number in its range.
    """

    def __init__(self, embedding_dim: int = 128, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        self.embedding_dim = check_size("embedding_dim", embedding_dim, 1)
        self.in_channels = check_size("in_channels", in_channels, 1)
        self.image_size = check_size("image_size", image_size, 4)
        self.conv1 = nn.Conv2d(in_channels, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(64 * (image_size // 4) ** 2, embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images.

        Args:
            images: (B, C, H, W) floating point, as the data module normalises them.

        Returns:
            Embeddings (B, D), not normalised.

        Raises:
            ValueError: If the images' shape is not the one this network was made for.
        """
        self._check_images(images)
        features = torch.relu(nn.functional.max_pool2d(self.conv1(images), 2))
        features = torch.relu(nn.functional.max_pool2d(self.conv2(features), 2))
        return self.fc1(features.flatten(1))
