"""The residual network of the ArcFace paper."""

from torch import Tensor, nn

from arcface_pl.backbones.base import Backbone
from arcface_pl.errors import expected
from arcface_pl.functional.checks import check_number

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}
"""Residual units per stage by the number of layers."""
_CHANNELS = (64, 128, 256, 512)
_EPS = 1e-5


class ResidualUnit(nn.Module):
    """Improved residual unit: BN - Conv - BN - PReLU - Conv - BN (Deng et al. 2019, ArcFace, section 3.1).

    The stride is in the second convolution; where it halves the image, a 1 x 1 convolution projects the shortcut.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels, eps=_EPS)
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, eps=_EPS)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels, eps=_EPS)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels, eps=_EPS))

    def forward(self, features: Tensor) -> Tensor:
        """Return shortcut(features) + residual(features)."""
        change = self.bn2(self.conv1(self.bn1(features)))
        change = self.bn3(self.conv2(self.prelu(change)))
        return change + (features if self.downsample is None else self.downsample(features))


class IResNet(Backbone):
    """Improved residual network for faces (Deng et al. 2019, ArcFace, section 3.1; Duta et al. 2020, iResNet).

    The first convolution keeps the image's size; four stages halve it each; a linear layer sees the last features with
    their positions, after batch normalization and dropout, and its output is batch-normalized. Names and order of the
    weights are those of the published ``backbone.pth`` files of insightface's arcface_torch, for ``init_from``:
    112 x 112 RGB, (pixel / 255 - 0.5) / 0.5. With 512 dimensions: 24.0 M parameters at depth 18, 34.1 M at 34, 43.6 M
    at 50, 65.2 M at 100 and 118.8 M at 200.

    Args:
        depth: 18, 34, 50, 100 or 200.
        embedding_dim: Width D of the embeddings, at least 1.
        in_channels: Channels of the images, at least 1.
        image_size: Height and width of the images in pixels, at least 9.
        dropout: Dropout rate before the linear layer, in [0, 1).

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(
        self,
        depth: int = 50,
        embedding_dim: int = 512,
        in_channels: int = 3,
        image_size: int = 112,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self._set_sizes(embedding_dim, in_channels, image_size, smallest=9)
        if depth not in DEPTHS:
            raise ValueError(expected("depth", depth, f"one of {', '.join(map(str, DEPTHS))}"))
        check_number("dropout", dropout, low=0, high=1)
        self.depth = depth
        self.conv1 = nn.Conv2d(in_channels, _CHANNELS[0], kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_CHANNELS[0], eps=_EPS)
        self.prelu = nn.PReLU(_CHANNELS[0])
        before = (_CHANNELS[0], *_CHANNELS)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(
                ResidualUnit(narrow, wide, stride=2),
                *(ResidualUnit(wide, wide, stride=1) for _ in range(number - 1)),
            )
            for narrow, wide, number in zip(before, _CHANNELS, DEPTHS[depth], strict=False)
        )
        self.bn2 = nn.BatchNorm2d(_CHANNELS[-1], eps=_EPS)
        self.dropout = dropout
        side = -(-image_size // 16)
        self.fc = nn.Linear(_CHANNELS[-1] * side**2, embedding_dim)
        self.features = nn.BatchNorm1d(embedding_dim, eps=_EPS)
        nn.init.ones_(self.features.weight)
        self.features.weight.requires_grad = False  # the head ignores the embedding's length
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.1)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images, see `Backbone.forward`."""
        self._check_images(images)
        features = self.prelu(self.bn1(self.conv1(images)))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        features = nn.functional.dropout(self.bn2(features).flatten(1), self.dropout, self.training)
        return self.features(self.fc(features))
