"""Any network as a backbone: its output reduced to embeddings (B, D), and its width found by one forward pass."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from arcface_pl.backbones.base import Backbone
from arcface_pl.errors import expected

# Entries that hold one embedding per image: Hugging Face's, CLIP's, and DINOv2's forward_features
_EMBEDDING_KEYS = ("pooler_output", "image_embeds", "embeddings", "embedding", "x_norm_clstoken")


def adapt(network: nn.Module) -> nn.Module:
    """Have a network return embeddings (B, D), in place.

    Outputs (B, D, 1, 1) are flattened. Of a tuple the first entry of either form is taken; of a dictionary, as Hugging
    Face's models return, ``pooler_output`` or what else is known to be an embedding, or the only entry of either form.
    A forward hook does this, so that the names of the weights stay those of the network.

    Args:
        network: Maps images (B, C, H, W) to any of these; a `Backbone` is left alone.

    Returns:
        The network.
    """
    if not isinstance(network, Backbone) and not getattr(network, "_returns_embeddings", False):
        network.register_forward_hook(_to_embeddings)
        network._returns_embeddings = True  # type: ignore[assignment]
    return network


def example_images(network: nn.Module) -> Tensor | None:
    """Return a batch of one black image of the size that a network says it takes, or None."""
    channels, size = (getattr(network, name, None) for name in ("in_channels", "image_size"))
    return torch.zeros(1, channels, size, size) if isinstance(channels, int) and isinstance(size, int) else None


@torch.no_grad()
def embedding_width(network: nn.Module, in_channels: int, image_size: int) -> int:
    """Find the width D of a network's embeddings by one forward pass, which also sizes its lazy layers.

    Args:
        network: Maps images to embeddings; its weights, mode and random draws are unaffected.
        in_channels: Channels of the images.
        image_size: Height and width of the images in pixels.

    Raises:
        ValueError: If it does not take such images, or does not return one embedding per image.
    """
    name, shape = type(network).__name__, (2, in_channels, image_size, image_size)
    modes = [(module, module.training) for module in network.modules()]
    weight = next((each for each in network.parameters() if not nn.parameter.is_lazy(each)), torch.empty(0))
    try:
        with torch.random.fork_rng(devices=[]):
            embeddings = adapt(network).eval()(torch.zeros(shape, device=weight.device, dtype=weight.dtype))
    except _OutputError:
        raise
    except Exception as error:  # the network is anybody's
        reason = " ".join(str(error).split())
        reason = reason if isinstance(error, RuntimeError) and reason else f"{type(error).__name__}: {reason}"
        raise ValueError(expected("backbone", f"{name}, which fails: {reason}", f"to take images {shape}")) from error
    finally:
        for module, training in modes:
            module.training = training
    if not embeddings.is_floating_point():
        got = f"{name} returning {embeddings.dtype}"
        raise ValueError(expected("backbone", got, "one embedding (B, D) per image, in floating point"))
    if len(embeddings) != 2:
        got = f"{name} returning {tuple(embeddings.shape)} for images {shape}"
        raise ValueError(expected("backbone", got, "one embedding (B, D) per image"))
    return embeddings.shape[1]


class _OutputError(ValueError):
    """What a network returns holds no embeddings, or several."""


def _to_embeddings(network: nn.Module, inputs: Any, output: Any) -> Tensor:
    found = list(output) if isinstance(output, list | tuple) else [output]
    got = f"{type(network).__name__} returning {_described(output)}"
    if isinstance(output, Mapping):
        known = [output[key] for key in _EMBEDDING_KEYS if isinstance(output.get(key), Tensor)]
        found = known or [*output.values()]
        if not known and sum(map(_is_embedding, found)) > 1:
            remedy = f"Return the tensor, or name it one of {', '.join(_EMBEDDING_KEYS)}"
            raise _OutputError(expected("backbone", got, "one embedding (B, D) per image", remedy))
    for each in filter(_is_embedding, found):
        return each.flatten(1)
    remedy = "Pool feature maps and tokens in the network's forward"
    raise _OutputError(expected("backbone", got, "one embedding (B, D) per image", remedy))


def _is_embedding(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim >= 2 and value.shape[2:].numel() == 1


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    if isinstance(output, Mapping):
        return f"{{{', '.join(f'{key}: {_described(each)}' for key, each in output.items())}}}"
    if isinstance(output, list | tuple):
        return f"({', '.join(map(_described, output))})"
    return type(output).__name__
