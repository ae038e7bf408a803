"""Base class of this package's backbones."""

import torch.nn.functional as F
from torch import Tensor, nn

from arcface_pl.errors import expected
from arcface_pl.functional.checks import check_count


class Backbone(nn.Module):
    """Network with a fixed input shape, whose sizes the command line fills in from the data.

    A subclass takes ``embedding_dim``, ``in_channels`` and ``image_size`` and stores every constructor argument as an
    attribute of the same name, so that a checkpoint can rebuild it from its name and these values. Any other
    `nn.Module` that maps images to (B, D) works as a backbone too.

    Attributes:
        embedding_dim: Width D of the embeddings.
        in_channels: Channels C of the images.
        image_size: Height and width of the images in pixels.
    """

    embedding_dim: int
    in_channels: int
    image_size: int
    input_size: int

    def forward(self, images: Tensor) -> Tensor:
        """Embed images.

        Args:
            images: (B, C, H, W) floating point, normalized as by the data module.

        Returns:
            Embeddings (B, D), not normalized.

        Raises:
            ValueError: If the images do not have the network's shape.
        """
        raise NotImplementedError

    def _set_sizes(self, embedding_dim: int, in_channels: int, image_size: int, smallest: int = 1) -> None:
        """Check and store the sizes; images must have at least ``smallest`` pixels per side."""
        for name, value, low in (
            ("embedding_dim", embedding_dim, 1),
            ("in_channels", in_channels, 1),
            ("image_size", image_size, smallest),
        ):
            check_count(name, value, low=low)
            setattr(self, name, value)

    def _check_images(self, images: Tensor) -> None:
        wanted = (self.in_channels, self.image_size, self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != wanted:
            accepted = f"shape (B, {', '.join(map(str, wanted))}), for which this {type(self).__name__} was built"
            raise ValueError(expected("images", tuple(images.shape), accepted))

    def _enlarged(self, images: Tensor) -> Tensor:
        """Check images, and enlarge them to ``input_size``, for networks that need larger ones."""
        self._check_images(images)
        if self.input_size == self.image_size:
            return images
        return F.interpolate(images, size=(self.input_size, self.input_size), mode="bilinear")
