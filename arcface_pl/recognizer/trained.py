"""`TrainedModel`: networks, preprocessing, class names, thresholds and measured numbers of a training run."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from arcface_pl.backbones.adapter import adapt
from arcface_pl.checkpoints.network import rebuild
from arcface_pl.checkpoints.reading import CheckpointFile, read_checkpoint
from arcface_pl.checkpoints.runs import run_of
from arcface_pl.errors import CheckpointError, expected
from arcface_pl.evaluation.thresholds import Calibration
from arcface_pl.heads import Head
from arcface_pl.preprocessing import ImageError, Preprocessor, normalize_images
from arcface_pl.recognizer.answers import Pictures
from arcface_pl.recognizer.pictures import each_picture, frame, is_one

BATCH = 256
"""Pictures per forward pass."""


@dataclass(repr=False)
class TrainedModel:
    """A trained backbone and head, and what inference needs besides.

    Attributes:
        backbone: Maps (B, C, S, S) to embeddings (B, D), in evaluation mode.
        head: In evaluation mode.
        preprocessor: Turns a picture into the backbone's input.
        class_names: Names of the trained classes, in label order.
        dataset_name: Training data, if known.
        calibration: Thresholds, if measured.
        metrics: Measured numbers by their logged key.
    """

    backbone: nn.Module
    head: Head
    preprocessor: Preprocessor
    class_names: list[str]
    dataset_name: str | None = None
    calibration: Calibration | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path | CheckpointFile, *, backbone: nn.Module | None = None, head: Head | None = None
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
            # A user's own network need not have sizes, nor a checkpoint of an earlier release the data's
            sizes: dict[str, Any] = {
                name: getattr(backbone, name, facts.get(name)) for name in ("in_channels", "image_size")
            }
            return cls(
                backbone,
                head,
                Preprocessor.from_data_facts(facts, **sizes),
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
            if (got := getattr(self.preprocessor, name)) != (size := getattr(self.backbone, name, got)):
                raise ValueError(expected(f"preprocessing.{name}", got, f"{size}, as in the backbone"))
        for part in (adapt(self.backbone), self.head):
            # The layout of training: another one is slower, and differs in the last bit
            part.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def to(self, device: str | torch.device) -> Self:
        """Move both networks to a device and return self."""
        self.backbone.to(device)
        self.head.to(device)
        return self

    def batches(self, images: Pictures, *, framed: bool = False) -> Iterator[tuple[Tensor, list[ImageError | None]]]:
        """Yield the backbone's input for pictures, in batches.

        Args:
            images: One picture or several; see `Recognizer`.
            framed: ``images`` are pixels at the network's input size, prepared as the training images were; they are
                only normalized.

        Yields:
            (at most `BATCH`, C, S, S) float32, on the device of the networks; and per picture what is wrong with it, or
            None, in which case the next row is its.

        Raises:
            ImageError: If a single picture cannot be read, or is blank.
            ValueError: If ``framed`` is set and ``images`` have another size or dtype.
        """
        if framed:
            for batch in self._framed(images).split(BATCH):
                yield self._normalized(batch), [None] * len(batch)
            return
        waiting = each_picture(images)
        while chunk := list(islice(waiting, BATCH)):
            found = [frame(picture, self.preprocessor) for picture in chunk]
            errors = [each if isinstance(each, ImageError) else None for each in found]
            if errors[0] is not None and is_one(images):
                raise errors[0]
            pixels = [each for each in found if isinstance(each, Tensor)]
            size = self.preprocessor.image_size
            none = torch.empty(0, self.preprocessor.in_channels, size, size, dtype=torch.uint8)
            yield self._normalized(torch.stack(pixels) if pixels else none), errors

    def _normalized(self, pixels: Tensor) -> Tensor:
        return normalize_images(pixels.to(self.head.weight.device), *self.preprocessor.normalization)

    def _framed(self, images: Pictures) -> Tensor:
        pixels = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
        size = (self.preprocessor.in_channels, *(self.preprocessor.image_size,) * 2)
        if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.shape[1:] != size:
            given = f"{pixels.dtype} {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(images).__name__
            raise ValueError(expected("images", given, f"uint8 (B, {', '.join(map(str, size))}), as framed is set"))
        return pixels

    def __repr__(self) -> str:
        names = f" of {self.dataset_name}" if self.dataset_name else ""
        size = f"{self.preprocessor.in_channels}x{self.preprocessor.image_size}x{self.preprocessor.image_size}"
        return (
            f"TrainedModel({type(self.backbone).__name__} {size} -> {self.head.embedding_dim}, "
            f"{type(self.head).__name__}, {len(self.class_names):,} classes{names}, "
            f"{'thresholds measured' if self.calibration else 'no threshold'}, on {self.head.weight.device})"
        )

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
