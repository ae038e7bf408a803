"""Networks of timm as backbones, with or without their weights."""

import logging
import math
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arcface_pl.backbones.base import Backbone
from arcface_pl.backbones.torchvision import LARGEST_MINIMUM, WeightsError
from arcface_pl.errors import UserError, expected, listed

LARGEST_INPUT = 8192
_ACCEPTED = "true, false or a file (.pt, .pth, .safetensors)"


class TimmBackbone(Backbone):
    """Any network of timm, for any image size and number of channels; needs the extra ``timm``.

    The network's own pooling is kept, and its classifier is replaced by a linear layer to the embeddings. timm adapts
    the first convolution to the channels and the position embeddings of a vision transformer to the image size. Images
    are enlarged to ``input_size``.

    Args:
        name: Name from ``timm.list_models()`` or ``timm.list_pretrained()``, such as resnet18, resnet18.a1_in1k,
            vit_tiny_patch16_224 or vit_small_patch14_dinov2.
        embedding_dim: Width D of the embeddings, at least 1.
        in_channels: Channels of the images, at least 1.
        image_size: Height and width of the images in pixels, at least 1.
        pretrained: True for timm's weights, downloaded once from the Hugging Face Hub; a path for a local file of them;
            False for random weights.
        input_size: Height and width in pixels to which images are enlarged, at least ``image_size``; None for the
            smallest that is found to work: whole patches of a transformer, else a multiple of 32.

    Attributes:
        trained_on: ``image_size``, ``mean`` and ``std`` (one number per channel) of the images that pretrained weights
            expect, by the name of the data module's settings; empty for random weights.

    Raises:
        UserError: If timm is not installed.
        ValueError: If the network does not exist or returns no embedding, it has no weights, or a size is out of range.
        WeightsError: If the weights cannot be downloaded or read, or do not fit.
    """

    def __init__(
        self,
        name: str = "resnet18",
        embedding_dim: int = 128,
        in_channels: int = 3,
        image_size: int = 224,
        pretrained: bool | str = False,
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        self.name = _check_name(name)
        self._set_sizes(embedding_dim, in_channels, image_size)
        if input_size is not None and not image_size <= input_size <= LARGEST_INPUT:
            accepted = f"image_size ({image_size}) to {LARGEST_INPUT}, or null"
            raise ValueError(expected("input_size", input_size, accepted))
        sizes = _candidates(self.name, image_size) if input_size is None else [input_size]
        self.input_size, width = _first_accepted(self.name, in_channels, sizes)
        options = _options(self.name, in_channels, self.input_size)
        on_meta = torch.get_default_device().type == "meta"  # only shapes are needed
        self.network = _with_weights(options, pretrained) if pretrained and not on_meta else _build(options)
        self.embedding = nn.Linear(width, embedding_dim)
        self.trained_on: dict[str, Any] = _trained_on(self.name, in_channels) if pretrained else {}
        # Not the source: rebuilding from a checkpoint, which has trained weights, must not read the initial ones
        self.pretrained: bool | str = False

    def forward(self, images: Tensor) -> Tensor:
        """Embed images, see `Backbone.forward`."""
        return self.embedding(self.network(self._enlarged(images)))


def _check_name(name: str) -> str:
    """Return the name of a network without the Hub's prefix; names that a checkpoint gives must not lead to the Hub."""
    try:
        import timm
    except ImportError:
        raise UserError("TimmBackbone needs timm, which is not installed; pip install 'arcface_pl[timm]'") from None
    plain = name.removeprefix("hf-hub:").removeprefix("hf_hub:").removeprefix("timm/")
    known = {*timm.list_models(), *timm.list_pretrained()}
    if plain not in known:
        near = get_close_matches(plain, sorted(known), n=5)
        remedy = f"Did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise ValueError(expected("name", name, "the name of a network of timm", remedy))
    return plain


def _options(name: str, in_channels: int, size: int) -> dict[str, Any]:
    import timm

    config = timm.get_pretrained_cfg(name)
    sized = {"img_size": size} if config is not None and config.fixed_input_size else {}
    return {"model_name": name, "num_classes": 0, "in_chans": in_channels, **sized}


def _build(options: dict[str, Any], **weights: Any) -> nn.Module:
    import timm

    return timm.create_model(**options, **weights)


def _candidates(name: str, image_size: int) -> list[int]:
    """Return the sizes to try: the image's, rounded up to whole patches, and multiples of 32 above it."""
    with torch.device("meta"):
        patch = _patch(_build({"model_name": name, "num_classes": 0}))
    first = -(-image_size // patch) * patch
    step = math.lcm(patch, 32)
    later = range(-(-first // step) * step, max(first, LARGEST_MINIMUM) + step, step)
    return list(dict.fromkeys((first, *later)))


def _first_accepted(name: str, in_channels: int, sizes: list[int]) -> tuple[int, int]:
    """Return the first size that the network accepts, and the width of its features; tried on the meta device."""
    fault = ""
    for size in sizes:
        try:
            with torch.device("meta"):
                network = _build(_options(name, in_channels, size)).eval()
                features = network(torch.empty(2, in_channels, size, size))
        except (RuntimeError, ValueError, AssertionError, TypeError, ArithmeticError, LookupError) as error:
            fault = fault or " ".join(str(error).split())[:200]
            continue
        if isinstance(features, Tensor) and features.ndim == 2:
            return size, features.shape[1]
        fault = "it does not return one vector per image"
    accepted = f"a network of timm that embeds images of {in_channels} x {sizes[0]} x {sizes[0]}"
    raise ValueError(expected("name", name, f"{accepted} ({fault})"))


def _patch(network: nn.Module) -> int:
    """Return the side of a transformer's patches, or 1: beyond whole patches, the edge of an image would be cut off."""
    sizes: list[Any] = [
        getattr(each, "patch_size", 1)
        for each in network.modules()
        if isinstance(getattr(each, "proj", None), nn.Conv2d)
    ]
    return math.lcm(*(size[0] if isinstance(size, tuple) else size for size in sizes))


def _trained_on(name: str, in_channels: int) -> dict[str, Any]:
    """Return what the weights expect of images; with other than three channels, the average over the three."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None:
        return {}
    mean, std = (
        list(each) if len(each) == in_channels else [sum(each) / len(each)] * in_channels
        for each in (config.mean, config.std)
    )
    return {"image_size": config.input_size[-1], "mean": mean, "std": std}


def _with_weights(options: dict[str, Any], pretrained: bool | str) -> nn.Module:
    """Build a network with the weights that timm downloads, or that a file holds."""
    import timm

    name = options["model_name"]
    if isinstance(pretrained, str | Path):
        return _with_file(options, str(pretrained))
    if not timm.is_model_pretrained(name):
        raise ValueError(expected("pretrained", True, f"false or a file for {name}", "timm has no weights for it"))
    try:
        return _build(options, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:  # no connection, full disk, or a damaged file
        reason = " ".join(str(error).split())[:200]
        remedy = "Offline, give a local file of them: --model.backbone.pretrained FILE"
        raise WeightsError(f"pretrained: weights of {name} could not be downloaded ({reason}). {remedy}") from error


def _with_file(options: dict[str, Any], path: str) -> nn.Module:
    """Build a network with the weights of a file, which timm renames and resizes as those that it downloads."""
    from timm.models import load_state_dict

    if not os.path.isfile(path):
        raise WeightsError(expected("pretrained", path, _ACCEPTED, "There is no such file; false resumes without it"))
    log = logging.getLogger("timm")  # warns of the names in a wrong file, all of them
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        # Read without running what a pickle names
        overlay = {"state_dict": load_state_dict(path, weights_only=True)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            network = _build(options, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # whatever pickle, safetensors and timm raise over a file of something else
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(expected("pretrained", path, f"weights of {options['model_name']} ({reason})")) from error
    finally:
        log.setLevel(level)
    if missing := _untouched(network, options):
        accepted = f"weights of {options['model_name']}"
        raise WeightsError(expected("pretrained", path, accepted, f"The file lacks {listed(missing)}"))
    return network


_SEED = 7_340_033  # any that nobody starts a run with


def _untouched(network: nn.Module, options: dict[str, Any]) -> list[str]:
    """Name the weights that a file left as they were drawn: timm only logs it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        drawn = _build(options).state_dict()
    return [
        name
        for name, weight in network.named_parameters()
        if weight.ndim > 1 and drawn[name].min() < drawn[name].max() and torch.equal(weight, drawn[name])
    ]
