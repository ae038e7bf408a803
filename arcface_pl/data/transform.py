"""`ImageTransform`: any transform of single images, repeatable, in the place of the built-in augmentation."""

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from arcface_pl.errors import DataError, expected
from arcface_pl.seeding import seed_draws

Transform = Callable[[Any], Any]

_TOLERANCE = 0.01  # of resampling, beyond a scale from 0 to 1


class ImageTransform:
    """Applies callables to each image of a batch, one after the other, each image with random numbers of its own.

    Before each image the generators of torch, `random` and numpy are seeded by what `draw` returned for it, and
    restored after the batch. Whatever draws from these is therefore a function of seed, epoch and image.

    Args:
        name: Name of the setting, for messages.
        transform: Maps an image (C, H, W) uint8 to one of the same shape, uint8, or floating point from 0 to 1. One or
            several in a row, such as those of ``torchvision.transforms.v2``.

    Raises:
        ValueError: If it cannot be called.
    """

    def __init__(self, name: str, transform: Transform | list[Transform]) -> None:
        self.name = name
        self.steps: list[Any] = list(transform) if isinstance(transform, list | tuple) else [transform]
        if wrong := [step for step in self.steps if not callable(step)]:
            raise ValueError(
                expected(name, wrong[0], "a callable, such as a torchvision v2 transform, or a list of them")
            )

    def __str__(self) -> str:
        """Name the transforms and their settings, the same in every process."""
        names = [getattr(step, "__qualname__", None) or repr(step) for step in self.steps]
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", f"[{', '.join(names)}]")
        return (
            text.replace("[", "(").replace("]", ")").replace(",)", ")")
        )  # configs have lists where classes have tuples

    def draw(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Draw a seed per image, (count,) int64."""
        return torch.randint(2**62, (count,), generator=generator)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Transform each image by its own draw.

        Args:
            images: (B, C, H, W) uint8.
            draws: What :meth:`draw` returned for them.

        Returns:
            (B, C, H, W), values from 0 to 255, uint8 or floating point.

        Raises:
            DataError: If a result is not an image of the same shape.
        """
        with isolate_rng(include_cuda=images.is_cuda):
            return torch.stack([self._one(image, seed) for image, seed in zip(images, draws.tolist(), strict=True)])

    def _one(self, image: Tensor, seed: int) -> Tensor:
        seed_draws(image.device, seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  # what callables of users draw from
        made: Any = image
        for step in self.steps:
            try:
                made = step(made)
            except Exception as error:
                got = f"{type(error).__name__}: {' '.join(str(error).split())}"
                name = getattr(step, "__qualname__", type(step).__name__)
                accepted = f"a transform of uint8 tensors {tuple(image.shape)}; {name} failed"
                raise DataError(expected(f"data.{self.name}", got, accepted)) from error
        if not isinstance(made, Tensor) or made.shape != image.shape:
            got = str(tuple(made.shape)) if isinstance(made, Tensor) else type(made).__name__
            raise DataError(expected(f"data.{self.name}", got, f"images of the input's shape, {tuple(image.shape)}"))
        made = made.as_subclass(Tensor)
        if made.dtype == torch.uint8:
            return made
        low, high = (float(bound) for bound in made.aminmax())
        if not (made.is_floating_point() and low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
            got = f"{made.dtype} from {low:g} to {high:g}"
            remedy = "Leave out Normalize: mean and standard deviation are the data module's (normalize, mean, std)"
            raise DataError(expected(f"data.{self.name}", got, "uint8, or floating point from 0 to 1", remedy))
        return made.float() * 255
