"""What every backbone has in common."""

from torch import Tensor, nn

__all__ = ["Backbone", "check_size"]


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


def check_size(name: str, value: int, minimum: int) -> int:
    """Return ``value`` if it is a whole number of at least ``minimum``, else raise a ValueError that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name}: got {value!r}, but it takes a whole number of at least {minimum}")
    return value
