"""Any of torchvision's classification networks, with or without its weights, as a backbone."""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from arcface_pl.backbones.base import Backbone, check_size
from arcface_pl.errors import UserError

__all__ = ["TorchvisionBackbone", "WeightsError"]

# Side that an image is enlarged to at most before a network is given up; the largest minimum of torchvision's is 224.
LARGEST_MINIMUM = 512


class WeightsError(UserError):
    """Weights that cannot be had: the message names them, where they were looked for and why that failed."""


class TorchvisionBackbone(Backbone):
    """Any of torchvision's classification networks as an embedding network, for every image size and channel count.

    The classifier's last layer gives way to a linear layer to the embeddings; dropout before it stays. The first
    convolution is fitted to the channels: one channel takes the sum of its weights over red, green and blue, and more
    take them in turn, scaled by 3 / C, so that an image whose channels are alike gives what it gave as a grey picture.
    Images smaller than the network's minimum are enlarged to it. A vision transformer's positions are interpolated.
    Auxiliary classifiers are left out.

    Args:
        name: A name from ``torchvision.models.list_models(module=torchvision.models)``, such as resnet18 or vit_b_16.
        embedding_dim: Width D of the embeddings, at least 1.
        in_channels: Channels of the images, at least 1.
        image_size: Height and width of the images in pixels, at least 1.
        weights: Name of the weights to begin with, such as DEFAULT or IMAGENET1K_V1, which torchvision fetches once
            and keeps in ``$TORCH_HOME``; unset: random ones.

    Attributes:
        input_size: Height and width in pixels that the network itself is given, at least ``image_size``.

    Raises:
        ValueError: If there is no such network, a size is out of range or there are no such weights.
        WeightsError: If the weights cannot be fetched.
    """

    def __init__(
        self,
        name: str = "resnet18",
        embedding_dim: int = 128,
        in_channels: int = 3,
        image_size: int = 224,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        known = models.list_models(module=models)
        if name not in known:
            raise ValueError(f"name: got {name!r}, but it takes one of torchvision's: {', '.join(known)}")
        self.name = name
        self.embedding_dim = check_size("embedding_dim", embedding_dim, 1)
        self.in_channels = check_size("in_channels", in_channels, 1)
        self.image_size = check_size("image_size", image_size, 1)
        self.input_size = _input_size(name, image_size)
        self.network = _with_weights(name, self.input_size, weights) if weights else _build(name, self.input_size)
        _adapt_first_convolution(self.network, in_channels)
        _replace_classifier(self.network, embedding_dim)
        # A checkpoint brings trained weights: whoever rebuilds the network from it must not fetch the first ones again
        self.weights: str | None = None

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
        if self.input_size != self.image_size:
            images = F.interpolate(images, size=(self.input_size, self.input_size), mode="bilinear")
        return self.network(images)


def _build(name: str, size: int) -> nn.Module:
    """Make a network with random weights and no auxiliary classifier."""
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": size}
    elif name.startswith("maxvit_"):
        options = {"input_size": (size, size)}
    with _CountOnCPU() if name.startswith("regnet_") else nullcontext():
        return models.get_model(name, weights=None, **options)


class _CountOnCPU(TorchFunctionMode):
    """Let a RegNet, which computes its widths as tensors and reads them, be laid out on the meta device too."""

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return func(*args, **(kwargs | {"device": "cpu"} if func in (torch.arange, torch.tensor) else kwargs))


def _with_weights(name: str, size: int, weights: str) -> nn.Module:
    """Make a network with torchvision's weights."""
    choices = models.get_model_weights(name)
    if weights not in choices.__members__:
        raise ValueError(f"weights: got {weights!r}, but {name} takes {', '.join(choices.__members__)}, or none")
    network = _build(name, size)
    if torch.get_default_device().type == "meta":
        return network  # only its shapes are wanted
    entry = choices[weights]
    try:
        source = models.get_model(name, weights=entry, progress=False)
    except (OSError, RuntimeError) as error:  # no network, no room, or a wrong checksum
        raise WeightsError(
            f"weights: {entry.name} of {name} could not be fetched from {entry.url} ({error}); without a network, put "
            f"that file into {torch.hub.get_dir()}/checkpoints"
        ) from error
    state = source.state_dict()
    if name.startswith("vit_"):
        state = interpolate_embeddings(size, source.patch_size, state)
    wanted = network.state_dict()
    network.load_state_dict({key: value for key, value in state.items() if key in wanted})
    return network


def _input_size(name: str, image_size: int) -> int:
    """Return the smallest side of at least ``image_size`` that the network takes, found by trying it without memory."""
    with torch.device("meta"):
        if name.startswith(("vit_", "maxvit_")):
            # Positions and partitions are laid out for one size, a multiple of the patch, or of what 7 x 7 windows
            # need after five halvings
            step = models.get_model(name).patch_size if name.startswith("vit_") else 7 * 32
            return -(-image_size // step) * step
        network = _build(name, image_size).eval()
        if _takes(network, image_size):
            return image_size
        too_small, enough = image_size, LARGEST_MINIMUM
        assert _takes(network, enough), f"{name} takes no image of {enough} pixels"
        while enough - too_small > 1:
            middle = (too_small + enough) // 2
            too_small, enough = (too_small, middle) if _takes(network, middle) else (middle, enough)
    return enough


def _takes(network: nn.Module, size: int) -> bool:
    try:
        network(torch.empty(1, 3, size, size))
    except (RuntimeError, ValueError):
        return False
    return True


def _adapt_first_convolution(network: nn.Module, in_channels: int) -> None:
    place, first = next((name, part) for name, part in network.named_modules() if isinstance(part, nn.Conv2d))
    if isinstance(network, models.GoogLeNet | models.Inception3):
        network.transform_input = False  # images come normalised already
    if in_channels == first.in_channels:
        return
    fitted = copy.deepcopy(first)
    weight = first.weight.detach()
    if in_channels == 1:
        weight = weight.sum(dim=1, keepdim=True)
    else:
        turn = torch.arange(in_channels, device=weight.device) % first.in_channels
        weight = weight[:, turn] * (first.in_channels / in_channels)
    fitted.in_channels, fitted.weight = in_channels, nn.Parameter(weight)
    network.set_submodule(place, fitted)


def _replace_classifier(network: nn.Module, embedding_dim: int) -> None:
    if isinstance(network, models.SqueezeNet):
        # A convolution classifies here, and a ReLU after it would leave embeddings without a negative side
        network.classifier[1] = nn.Conv2d(network.classifier[1].in_channels, embedding_dim, kernel_size=1)
        network.classifier[2] = nn.Identity()
        return
    place, last = [(name, part) for name, part in network.named_modules() if isinstance(part, nn.Linear)][-1]
    network.set_submodule(place, nn.Linear(last.in_features, embedding_dim))
