"""Classification networks of torchvision as backbones, with or without their weights."""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from arcface_pl.backbones.base import Backbone
from arcface_pl.errors import UserError, expected

# Largest image size that is tried; torchvision's networks need at most 224
LARGEST_MINIMUM = 512


class WeightsError(UserError):
    """Weights that cannot be downloaded."""


class TorchvisionBackbone(Backbone):
    """Any classification network of torchvision, for any image size and number of channels.

    The last layer is replaced by a linear layer to the embeddings; dropout before it stays. The first convolution is
    adapted to the channels: one channel uses the sum of the weights over red, green and blue; more channels repeat
    them, scaled by 3 / C, so that an image with equal channels gives the result of the gray image. Images smaller than
    the network's minimum are enlarged. Position embeddings of vision transformers are interpolated. Auxiliary
    classifiers are removed.

    Args:
        name: Name from ``torchvision.models.list_models(module=torchvision.models)``, such as resnet18 or vit_b_16.
        embedding_dim: Width D of the embeddings, at least 1.
        in_channels: Channels of the images, at least 1.
        image_size: Height and width of the images in pixels, at least 1.
        weights: Name of the initial weights, such as DEFAULT or IMAGENET1K_V1, downloaded once into ``$TORCH_HOME``;
            random if unset.

    Attributes:
        input_size: Height and width in pixels to which images are enlarged, at least ``image_size``.

    Raises:
        ValueError: If the network or the weights do not exist, or a size is out of range.
        WeightsError: If the weights cannot be downloaded.
    """

    def __init__(
        self,
        name: str = "resnet18",
        embedding_dim: int = 128,
        in_channels: int = 3,
        image_size: int = 224,
        weights: str | None = None,
    ) -> None:
        from torchvision import models  # imported when needed: it takes a second

        super().__init__()
        known = models.list_models(module=models)
        if name not in known:
            raise ValueError(expected("name", name, f"one of torchvision's: {', '.join(known)}"))
        self.name = name
        self._set_sizes(embedding_dim, in_channels, image_size)
        self.input_size = _input_size(name, image_size)
        self.network = _with_weights(name, self.input_size, weights) if weights else _build(name, self.input_size)
        _adapt_first_convolution(self.network, in_channels)
        _replace_classifier(self.network, embedding_dim)
        # Not the name: rebuilding from a checkpoint, which has trained weights, must not download the initial ones
        self.weights: str | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Embed images, see `Backbone.forward`."""
        return self.network(self._enlarged(images))


def _build(name: str, size: int) -> nn.Module:
    """Build a network with random weights and without auxiliary classifiers."""
    from torchvision import models

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
    """Allows RegNets on the meta device, whose constructors read tensors of widths."""

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return func(*args, **(kwargs | {"device": "cpu"} if func in (torch.arange, torch.tensor) else kwargs))


def _with_weights(name: str, size: int, weights: str) -> nn.Module:
    """Build a network with torchvision's weights."""
    from torchvision import models
    from torchvision.models.vision_transformer import interpolate_embeddings

    choices = models.get_model_weights(name)
    if weights not in choices.__members__:
        raise ValueError(expected("weights", weights, f"{', '.join(choices.__members__)} for {name}, or none"))
    network = _build(name, size)
    if torch.get_default_device().type == "meta":
        return network  # only shapes are needed
    entry = choices[weights]
    try:
        source = models.get_model(name, weights=entry, progress=False)
    except (OSError, RuntimeError) as error:  # no connection, full disk, or a wrong checksum
        raise WeightsError(
            f"weights: {entry.name} of {name} could not be downloaded from {entry.url} ({error}). Offline, put "
            f"that file into {torch.hub.get_dir()}/checkpoints"
        ) from error
    state = source.state_dict()
    if name.startswith("vit_"):
        state = interpolate_embeddings(size, source.patch_size, state)
    wanted = network.state_dict()
    network.load_state_dict({key: value for key, value in state.items() if key in wanted})
    return network


def _input_size(name: str, image_size: int) -> int:
    """Return the smallest size >= ``image_size`` that the network accepts, found on the meta device."""
    from torchvision import models

    with torch.device("meta"):
        if name.startswith(("vit_", "maxvit_")):
            # Positions and partitions are fixed for one size: a multiple of the patch, or of 7 x 7 windows after five
            # halvings
            step = models.get_model(name).patch_size if name.startswith("vit_") else 7 * 32
            return -(-image_size // step) * step
        network = _build(name, image_size).eval()
        if _takes(network, image_size):
            return image_size
        too_small, enough = image_size, LARGEST_MINIMUM
        assert _takes(network, enough), f"{name} accepts no image of {enough} pixels"
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
    from torchvision import models

    place, first = next((name, part) for name, part in network.named_modules() if isinstance(part, nn.Conv2d))
    if isinstance(network, models.GoogLeNet | models.Inception3):
        network.transform_input = False  # images are normalized already
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
    from torchvision import models

    if isinstance(network, models.SqueezeNet):
        # The classifier is a convolution; the ReLU after it would make embeddings non-negative
        network.classifier[1] = nn.Conv2d(network.classifier[1].in_channels, embedding_dim, kernel_size=1)
        network.classifier[2] = nn.Identity()
        return
    place, last = [(name, part) for name, part in network.named_modules() if isinstance(part, nn.Linear)][-1]
    network.set_submodule(place, nn.Linear(last.in_features, embedding_dim))
