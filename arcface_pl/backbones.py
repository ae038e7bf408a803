"""Networks that turn images (B, C, H, W) into embeddings (B, D)."""

import torch
from torch import Tensor, nn

__all__ = ["BACKBONES", "Backbone", "SimpleCNN"]


class Backbone(nn.Module):
    """What a network must say of itself to carry a head.

    A subclass takes ``embedding_dim``, ``in_channels`` and ``image_size`` and keeps every constructor argument as an
    attribute of the same name, so that a checkpoint can rebuild it from its name and those values.

    Attributes:
        embedding_dim: Width D of the embeddings.
        in_channels: Channels C of the images.
        image_size: Height and width of the images, in pixels.
    """

    embedding_dim: int
    in_channels: int
    image_size: int

    def _check_images(self, images: Tensor) -> None:
        expected = (self.in_channels, self.image_size, self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            accepted = ", ".join(map(str, expected))
            raise ValueError(
                f"images: got shape {tuple(images.shape)}, but {type(self).__name__} takes (B, {accepted})"
            )


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


def check_size(name: str, value: int, minimum: int) -> int:
    """Return ``value`` if it is a whole number of at least ``minimum``, else raise a ValueError that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name}: got {value!r}, but it takes a whole number of at least {minimum}")
    return value


BACKBONES: dict[str, type[Backbone]] = {cls.__name__: cls for cls in (SimpleCNN,)}
