"""`TrainedModel`: networks, preprocessing, class names, thresholds and measured numbers of a training run."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from arcface_pl.backbones import Backbone
from arcface_pl.checkpoints.network import rebuild
from arcface_pl.checkpoints.reading import CheckpointFile, read_checkpoint
from arcface_pl.checkpoints.runs import run_of
from arcface_pl.errors import CheckpointError, expected
from arcface_pl.evaluation.thresholds import Calibration
from arcface_pl.heads import Head
from arcface_pl.preprocessing import Preprocessor, from_pil, normalize_images, read_image
from arcface_pl.recognizer.answers import Picture

__all__ = ["BATCH", "TrainedModel"]

BATCH = 256
"""Pictures per forward pass."""


@dataclass
class TrainedModel:
    """A trained backbone and head, and what inference needs besides.

    Attributes:
        backbone: In evaluation mode.
        head: In evaluation mode.
        preprocessor: Turns a picture into the backbone's input.
        class_names: Names of the trained classes, in label order.
        dataset_name: Training data, if known.
        calibration: Thresholds, if measured.
        metrics: Measured numbers by their logged key.
    """

    backbone: Backbone
    head: Head
    preprocessor: Preprocessor
    class_names: list[str]
    dataset_name: str | None = None
    calibration: Calibration | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path | CheckpointFile, *, backbone: Backbone | None = None, head: Head | None = None
    ) -> Self:
        """Build the model of a checkpoint; no code that the file names is run.

        Args:
            path: A checkpoint of an `ArcFaceModule`.
            backbone: Needed if the checkpoint's backbone is not a class of this package.
            head: Needed if the checkpoint's head is not a class of this package.

        Raises:
            CheckpointError: If the file is damaged, unsafe, or does not fit the classes.
        """
        file = path if isinstance(path, CheckpointFile) else CheckpointFile(Path(path), read_checkpoint(path))
        content, facts = file.content, file.content.get("data") or {}
        try:
            backbone, head = rebuild(content, file.path, backbone=backbone, head=head)
            return cls(
                backbone,
                head,
                Preprocessor.from_data_facts(facts, in_channels=backbone.in_channels, image_size=backbone.image_size),
                list(facts.get("class_names") or map(str, range(head.num_classes))),
                facts.get("dataset_name"),
                Calibration.from_dict(content["calibration"]) if content.get("calibration") else None,
                _measured(file),
            )
        except CheckpointError:
            raise
        except (LookupError, ValueError, RuntimeError, AttributeError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(file.path, reason, "use the classes and sizes it was trained with") from error

    def __post_init__(self) -> None:
        if len(self.class_names) != self.head.num_classes:
            raise ValueError(expected("class_names", len(self.class_names), f"{self.head.num_classes} names"))
        for name in ("image_size", "in_channels"):
            if (got := getattr(self.preprocessor, name)) != (size := getattr(self.backbone, name)):
                raise ValueError(expected(f"preprocessing.{name}", got, f"{size}, as in the backbone"))
        for part in (self.backbone, self.head):
            # The layout of training: another one is slower, and differs in the last bit
            part.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def to(self, device: str | torch.device) -> Self:
        """Move both networks to a device and return self."""
        self.backbone.to(device)
        self.head.to(device)
        return self

    def batches(self, images: Picture | Sequence[Picture]) -> Iterator[Tensor]:
        """Yield the backbone's input for pictures, in batches.

        Args:
            images: One picture or several; or a uint8 tensor (B, C, S, S) at the network's input size, which is only
                normalized.

        Yields:
            (at most `BATCH`, C, S, S) float32, on the device of the networks.

        Raises:
            ImageError: If a file cannot be read, or is blank.
            ValueError: If a tensor is not a picture.
        """
        device, to_input = self.head.weight.device, self.preprocessor
        size = (to_input.in_channels, to_input.image_size, to_input.image_size)
        if isinstance(images, Tensor) and images.dtype == torch.uint8 and images.shape[1:] == size:
            for batch in images.split(BATCH):
                yield normalize_images(batch.to(device), to_input.mean, to_input.std)
            return
        if isinstance(images, str | Path | Image.Image) or (isinstance(images, Tensor) and images.ndim < 4):
            images = [images]
        for start in range(0, len(images), BATCH):
            pictures = [self._read(picture) for picture in images[start : start + BATCH]]
            yield torch.stack([to_input(picture) for picture in pictures]).to(device)

    def _read(self, picture: Picture) -> Tensor:
        to_input = self.preprocessor
        if isinstance(picture, Tensor):
            return picture[None] if picture.ndim == 2 else picture
        if isinstance(picture, Image.Image):
            return from_pil(picture, to_input.in_channels, white_level=to_input.white_level)
        return read_image(picture, to_input.in_channels, white_level=to_input.white_level)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what an embedding depends on: the backbone's weights and the preprocessing."""
        digest = hashlib.sha256(json.dumps(self.preprocessor.to_dict(), sort_keys=True).encode())
        for name, tensor in sorted(self.backbone.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            # contiguous(): the memory format does not matter
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _measured(file: CheckpointFile) -> dict[str, float]:
    """Return what the run measured of this checkpoint."""
    measured = dict(file.content.get("validation") or {})
    run = run_of(*file)
    if run is None:
        return measured
    try:
        found = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return measured
    # The test set was scored with one checkpoint only
    if isinstance(found, dict) and Path(str(found.get("checkpoint"))).name == file.path.name:
        measured |= {key: value for key, value in found.items() if "/" in key and isinstance(value, float)}
    return measured
