"""What those who use a training run need of it: networks, how pictures reach them, names, thresholds, numbers."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from arcface_pl.backbones import BACKBONES, Backbone
from arcface_pl.checkpoints.reading import read_checkpoint
from arcface_pl.checkpoints.specs import build
from arcface_pl.errors import CheckpointError
from arcface_pl.evaluation.thresholds import Calibration
from arcface_pl.heads import HEADS, Head
from arcface_pl.preprocessing import Preprocessor, from_pil, normalize_images, read_image
from arcface_pl.recognizer.answers import Picture

__all__ = ["BATCH", "TrainedModel"]

BATCH = 256
"""Pictures that go through the network at once."""


@dataclass
class TrainedModel:
    """A trained backbone and head with everything that their use needs.

    Attributes:
        backbone: In evaluation mode.
        head: In evaluation mode.
        preprocessor: What turns a picture into the backbone's input.
        class_names: Names of the trained classes, in label order.
        dataset_name: What it was trained on, where that is known.
        calibration: The thresholds, where some were measured.
        metrics: What was measured, by the key it was logged under.
    """

    backbone: Backbone
    head: Head
    preprocessor: Preprocessor
    class_names: list[str]
    dataset_name: str | None = None
    calibration: Calibration | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, backbone: Backbone | None = None, head: Head | None = None) -> Self:
        """Take the model out of a checkpoint; nothing that the file names is run.

        Args:
            path: A checkpoint that `ArcFaceModule` was saved in.
            backbone: Needed where the checkpoint's backbone is no class of this package.
            head: Needed where the checkpoint's head is no class of this package.

        Raises:
            CheckpointError: If the file is damaged, unsafe, or does not fit the classes.
        """
        checkpoint = read_checkpoint(path)
        saved, facts = checkpoint["hyper_parameters"], checkpoint.get("data") or {}
        try:
            backbone = build("backbone", BACKBONES, saved["backbone"]) if backbone is None else backbone
            head = build("head", HEADS, saved["head"]) if head is None else head
            model = cls(
                backbone,
                head,
                Preprocessor.from_data_facts(facts, in_channels=backbone.in_channels, image_size=backbone.image_size),
                list(facts.get("class_names") or map(str, range(head.num_classes))),
                facts.get("dataset_name"),
                Calibration.from_dict(checkpoint["calibration"]) if checkpoint.get("calibration") else None,
                _measured(Path(path), checkpoint),
            )
            model.load_weights(checkpoint["state_dict"])
        except (KeyError, ValueError, RuntimeError, AttributeError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(path, reason, "give the classes and sizes it was trained with") from error
        return model

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Take ``backbone.*`` and ``head.*`` from ``tensors``, and set both to evaluation.

        Raises:
            RuntimeError: If a weight is missing, unknown or of another shape.
        """
        if len(self.class_names) != self.head.num_classes:
            raise RuntimeError(f"there are {len(self.class_names)} class names for {self.head.num_classes} classes")
        for name, part in (("backbone.", self.backbone), ("head.", self.head)):
            part.load_state_dict(
                {key.removeprefix(name): tensor for key, tensor in tensors.items() if key.startswith(name)}
            )
            # The layout that training has by default: another one differs in the last bit, and is slower
            part.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def to(self, device: str | torch.device) -> Self:
        """Move both networks, and return self."""
        self.backbone.to(device)
        self.head.to(device)
        return self

    def batches(self, images: Picture | Sequence[Picture]) -> Iterator[Tensor]:
        """Make the backbone's input of pictures.

        Args:
            images: One picture or several, or a uint8 tensor (B, C, S, S) of the network's own size, which is framed
                already and only normalised.

        Yields:
            (at most `BATCH`, C, S, S) float32, on the device of the networks.

        Raises:
            ImageError: If a file cannot be read, or shows nothing.
            ValueError: If a tensor is no picture.
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
        """SHA-256 over all that an embedding depends on: the backbone's weights and the preprocessing."""
        digest = hashlib.sha256(json.dumps(self.preprocessor.to_dict(), sort_keys=True).encode())
        for name, tensor in sorted(self.backbone.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            # Bytes as they lie in rows: the memory format is no part of the weights
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _measured(path: Path, checkpoint: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a run that are this checkpoint's own."""
    measured = dict(checkpoint.get("validation") or {})
    results = path.parent.parent / "results.json"
    try:
        found = json.loads(results.read_text(encoding="utf-8")) if path.parent.name == "checkpoints" else {}
    except (OSError, ValueError):
        return measured
    # They are of the one checkpoint that was tested
    if isinstance(found, dict) and Path(str(found.get("checkpoint"))).name == path.name:
        measured |= {key: value for key, value in found.items() if "/" in key and isinstance(value, float)}
    return measured
