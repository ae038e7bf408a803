"""MobileFaceNet: a face network of a million parameters."""

from torch import Tensor, nn

from arcface_pl.backbones.base import Backbone

STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
"""Expansion, channels, repetitions and first stride of the bottlenecks (Chen et al. 2018, table 1)."""
_FIRST, _LAST = 64, 512


def _convolution(
    in_channels: int, out_channels: int, size: int, stride: int = 1, *, depthwise: bool = False, linear: bool = False
) -> nn.Sequential:
    """Return a convolution without bias, batch normalization and, unless linear, PReLU."""
    groups = in_channels if depthwise else 1
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, *([] if linear else [nn.PReLU(out_channels)]))


class Bottleneck(nn.Module):
    """Inverted residual: 1 x 1 expansion, 3 x 3 depthwise, linear 1 x 1 (Sandler et al. 2018, MobileNetV2, table 1)."""

    def __init__(self, in_channels: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.expand = _convolution(in_channels, wide, 1)
        self.depthwise = _convolution(wide, wide, 3, stride, depthwise=True)
        self.project = _convolution(wide, channels, 1, linear=True)
        self.is_residual = stride == 1 and in_channels == channels

    def forward(self, features: Tensor) -> Tensor:
        """Return the projection, added to the features if their shapes agree."""
        change = self.project(self.depthwise(self.expand(features)))
        return features + change if self.is_residual else change


class MobileFaceNet(Backbone):
    """Efficient face network (Chen et al. 2018, MobileFaceNets, table 1).

    Bottlenecks of depthwise convolutions with PReLU; in place of average pooling, a global depthwise convolution learns
    how much each position counts. 1.0 M parameters at 128 dimensions.

    Args:
        embedding_dim: Width D of the embeddings, at least 1.
        in_channels: Channels of the images, at least 1.
        image_size: Height and width of the images in pixels, at least 17; the paper's is 112.

    Raises:
        ValueError: If a size is out of range.
    """

    def __init__(self, embedding_dim: int = 128, in_channels: int = 3, image_size: int = 112) -> None:
        super().__init__()
        self._set_sizes(embedding_dim, in_channels, image_size, smallest=17)
        self.conv1 = _convolution(in_channels, _FIRST, 3, 2)
        self.conv2 = _convolution(_FIRST, _FIRST, 3, depthwise=True)
        blocks, width = [], _FIRST
        for expansion, channels, number, first_stride in STAGES:
            for position in range(number):
                blocks.append(Bottleneck(width, channels, expansion, first_stride if position == 0 else 1))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv3 = _convolution(width, _LAST, 1)
        side = -(-image_size // 16)
        self.pool = nn.Sequential(nn.Conv2d(_LAST, _LAST, side, groups=_LAST, bias=False), nn.BatchNorm2d(_LAST))
        self.fc = nn.Linear(_LAST, embedding_dim, bias=False)
        self.norm = nn.BatchNorm1d(embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images, see `Backbone.forward`."""
        self._check_images(images)
        features = self.blocks(self.conv2(self.conv1(images)))
        return self.norm(self.fc(self.pool(self.conv3(features)).flatten(1)))
