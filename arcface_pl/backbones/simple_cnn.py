"""Small network of two convolutions."""

import torch
from torch import Tensor, nn

from arcface_pl.backbones.base import Backbone


class SimpleCNN(Backbone):
    """Network of the original program: two 3 x 3 convolutions with max-pooling by 2, and one linear layer.

    420,352 parameters at the defaults. ReLU follows pooling: the two commute, and it then processes a quarter of the
    values.

    Args:
        embedding_dim: Width D of the embeddings, at least 1.
        in_channels: Channels of the images, at least 1.
        image_size: Height and width of the images in pixels, at least 4.

    Raises:
        ValueError: If a size is out of range.
    """

    def __init__(self, embedding_dim: int = 128, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        self._set_sizes(embedding_dim, in_channels, image_size, smallest=4)
        self.conv1 = nn.Conv2d(in_channels, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(64 * (image_size // 4) ** 2, embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images, see `Backbone.forward`."""
        self._check_images(images)
        features = torch.relu(nn.functional.max_pool2d(self.conv1(images), 2))
        features = torch.relu(nn.functional.max_pool2d(self.conv2(features), 2))
        return self.fc1(features.flatten(1))
