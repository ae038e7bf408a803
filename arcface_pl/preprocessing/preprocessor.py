"""`Preprocessor`: from any image to the network's input, described by plain values."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from arcface_pl.errors import UserError, expected, printable
from arcface_pl.functional.checks import check_choice
from arcface_pl.preprocessing.decoding import ImageError, read_image
from arcface_pl.preprocessing.drawing.ink import find_ink
from arcface_pl.preprocessing.framing import as_framed, fit_image, frame_ink, frame_object
from arcface_pl.preprocessing.normalize import normalize_images

_LOG = logging.getLogger(__name__)
Style = Literal["ink", "object", "picture"]
STYLES: tuple[Style, ...] = get_args(Style)

# MNIST's digits are 20 of 28 pixels large; KMNIST's characters fill the image.
_STYLE_OF_DATASET: dict[str | None, dict[str, Any]] = {
    "mnist": {"style": "ink"},
    "digits": {"style": "ink"},
    "kmnist": {"style": "ink", "ink_share": 1.0},
    "fashion_mnist": {"style": "object"},
}


def style_of_dataset(name: str | None) -> dict[str, Any]:
    """Return the kind of images of a known data set, as arguments of `Preprocessor`; "picture" for others.

    Args:
        name: Short name of the data set, such as ``mnist``.
    """
    return dict(_STYLE_OF_DATASET.get(name, {"style": "picture"}))


@dataclass(frozen=True)
class Preprocessor:
    """Turns any uint8 image into the network's normalized input, prepared like the training images.

    ``style`` is their kind: "ink" for handwriting or drawings, framed light on dark as in MNIST; "object" for one
    object on a plain ground, light on dark as in Fashion-MNIST; "picture" for anything else: the shorter side is
    resized to ``image_size``, and the center is cropped.

    Args:
        image_size: Height and width of the network's input, in pixels.
        in_channels: Channels of the network's input, 1 or 3.
        mean: Mean per channel, on a scale of 0 to 1.
        std: Standard deviation per channel.
        style: "ink", "object" or "picture".
        ink_share: Longer side of a character divided by ``image_size``, in (0, 1]; 20 / 28 in MNIST.
        white_level: Pixel value of white in files of more than 8 bits per channel; see `read_image`.

    Raises:
        ValueError: If a value is out of range.
    """

    image_size: int
    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    style: Style = "picture"
    ink_share: float = 20 / 28
    white_level: float | None = None

    def __post_init__(self) -> None:
        # Tuples are hashable, unlike the lists of JSON and checkpoints.
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if self.image_size < 1 or self.in_channels not in (1, 3):
            sizes = (self.image_size, self.in_channels)
            raise ValueError(expected("image_size, in_channels", sizes, "at least 1 pixel, and 1 or 3 channels"))
        if not len(self.mean) == len(self.std) == self.in_channels or not min(self.std) > 0:
            given = (self.mean, self.std)
            raise ValueError(expected("mean, std", given, f"{self.in_channels} values each, std above 0"))
        if not all(-255 <= number <= 255 for number in (*self.mean, *self.std)):
            raise ValueError(expected("mean, std", (self.mean, self.std), "numbers on a scale of 0 to 1"))
        check_choice("style", self.style, STYLES)
        if not 0 < self.ink_share <= 1:
            raise ValueError(expected("ink_share", self.ink_share, "a fraction in (0, 1]"))
        if self.white_level is not None and not 0 < self.white_level < float("inf"):
            raise ValueError(expected("white_level", self.white_level, "a pixel value above 0, or null"))

    def read(self, source: str | Path | bytes) -> Tensor:
        """Read an image file and frame it.

        Args:
            source: A file that `read_image` accepts, or its content.

        Returns:
            (in_channels, image_size, image_size) uint8.

        Raises:
            ImageError: If the file cannot be read, or nothing is drawn where the style is "ink".
        """
        return self.frame(read_image(source, self.in_channels, white_level=self.white_level))

    def __call__(self, image: Tensor) -> Tensor:
        """Turn an image into the network's input.

        Args:
            image: (C, H, W) uint8 of any size, with 1 or 3 channels.

        Returns:
            (in_channels, image_size, image_size) float32.

        Raises:
            ImageError: If nothing is drawn and the style is "ink".
        """
        return normalize_images(self.frame(image)[None], self.mean, self.std)[0]

    def frame(self, image: Tensor) -> Tensor:
        """Resize and frame an image, without normalizing it.

        Args:
            image: (C, H, W) uint8 of any size, with 1 or 3 channels.

        Returns:
            (in_channels, image_size, image_size) uint8.

        Raises:
            ImageError: If nothing is drawn and the style is "ink".
        """
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3) or not image.numel():
            given = f"{image.dtype} {tuple(image.shape)}"
            raise ValueError(expected("image", given, "uint8 (1 or 3, H, W), not empty"))
        if self.style == "ink":
            image = self._frame_ink(_grey(image))
        if image.shape[0] != self.in_channels:
            image = _grey(image) if self.in_channels == 1 else image.expand(3, -1, -1)
        if self.style == "object":
            return frame_object(image, self.image_size)
        return image if self.style == "ink" else fit_image(image, self.image_size)

    def _frame_ink(self, grey: Tensor) -> Tensor:
        box = round(self.ink_share * self.image_size)
        if grey.shape[1:] == (self.image_size, self.image_size):
            framed = as_framed(grey, box)
            if framed is not None:
                return framed
        ink = find_ink(grey[0].float().numpy())
        if ink is None:
            raise ImageError("nothing is drawn there")
        return frame_ink(ink, box, self.image_size)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values for JSON or a checkpoint; ``white_level`` only if it is set."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Create a preprocessor from `to_dict`.

        Raises:
            UserError: If ``values`` did not come from `to_dict`.
        """
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise UserError(f"preprocessing: {error}") from error

    @classmethod
    def from_data_facts(cls, facts: dict[str, Any], *, in_channels: int, image_size: int) -> Self:
        """Create a preprocessor from a checkpoint's description of its training data.

        Args:
            facts: The checkpoint's ``data``. If it has no preprocessing (in old checkpoints), the data set's name and
                normalization are used.
            in_channels: Channels of the backbone's input.
            image_size: Size of the backbone's input.

        Raises:
            UserError: If the stored preprocessing is invalid.
        """
        if facts.get("preprocessing"):
            values = dict(facts["preprocessing"])
            if lost := values.pop("eval_transform", None):
                text = (
                    "trained with data.eval_transform %s, which checkpoints cannot hold: pictures are prepared without"
                )
                _LOG.warning(text, printable(lost))
            return cls.from_dict(values)
        mean, std = facts.get("normalization") or ((0.0,) * in_channels, (1.0,) * in_channels)
        style = style_of_dataset(facts.get("dataset_name"))
        return cls(image_size, in_channels, mean, std, **style)


def _grey(image: Tensor) -> Tensor:
    if image.shape[0] == 1:
        return image
    weights = torch.tensor([0.299, 0.587, 0.114], device=image.device)
    return (image.float() * weights[:, None, None]).sum(0, keepdim=True).round().clamp(0, 255).to(torch.uint8)
