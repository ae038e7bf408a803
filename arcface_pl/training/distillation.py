"""Distillation: a small network learns the directions of the embeddings that a trained one has for the same images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcface_pl.errors import SettingsError, UserError, expected
from arcface_pl.functional.precision import full_precision
from arcface_pl.preprocessing import Preprocessor, in_order
from arcface_pl.recognizer.onnx_model import is_onnx, read_onnx
from arcface_pl.recognizer.pretrained import read_pretrained
from arcface_pl.recognizer.trained import TrainedModel
from arcface_pl.seeding import derive_seed, run_seed

_GREY = (0.299, 0.587, 0.114)


class Distillation(nn.Module):
    """The loss ``1 - cos(M student, teacher)``, on average over a batch.

    M is a trained linear map where the widths of the embeddings differ, and the identity where they do not. The teacher
    is in evaluation mode, has no gradient, and is no part of this module: neither checkpoints nor DDP see it. It gets
    the student's images, augmented as they are, in its own size, channels, channel order and normalization.

    Args:
        teacher: The trained model.
        embedding_dim: D, width of the student's embeddings.
        facts: Facts about the data, as `ArcFaceModule.data_facts` has them: how its images are normalized.

    Raises:
        SettingsError: If the teacher was trained on images of another style, such as ink on paper.
    """

    def __init__(self, teacher: TrainedModel, embedding_dim: int, facts: Mapping[str, Any]) -> None:
        super().__init__()
        style = (facts.get("preprocessing") or {}).get("style", teacher.preprocessor.style)
        if style != teacher.preprocessor.style:
            accepted = f"a teacher of images of the style {style!r}, that of the data"
            raise SettingsError(expected("model.teacher", f"one of the style {teacher.preprocessor.style!r}", accepted))
        self.teacher = teacher  # not an nn.Module: nothing saves, moves or trains it
        self._built_for: tuple[Any, ...] = ()
        self.facts = dict(facts)
        width = teacher.head.embedding_dim
        self.map = nn.Identity() if width == embedding_dim else nn.Linear(embedding_dim, width, bias=False)
        if isinstance(self.map, nn.Linear):
            generator = torch.Generator().manual_seed(derive_seed(run_seed(), "distillation"))
            nn.init.orthogonal_(self.map.weight, generator=generator)  # keeps the student's cosines

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the teacher's weights and preprocessing."""
        return self.teacher.fingerprint

    def forward(self, embeddings: Tensor, images: Tensor) -> Tensor:
        """Compute the loss, a scalar in [0, 2].

        Args:
            embeddings: The student's, (B, D).
            images: The student's input, (B, C, S, S).
        """
        with torch.no_grad():
            wanted = self._embed(images)
        with full_precision(embeddings.device):
            dtype = torch.promote_types(embeddings.dtype, torch.float32)
            weight = getattr(self.map, "weight", None)
            mapped = embeddings.to(dtype) if weight is None else F.linear(embeddings.to(dtype), weight.to(dtype))
            return 1 - F.cosine_similarity(mapped, wanted.to(dtype), dim=1).mean()

    def _embed(self, images: Tensor) -> Tensor:
        built_for = images.device, images.shape[1], images.shape[-1]
        if built_for != self._built_for:
            self.teacher.to(images.device)
            student = _prepared(self.facts, in_channels=images.shape[1], image_size=images.shape[-1])
            self._translate = _Translation(student, self.teacher.preprocessor, images.device)
            self._built_for = built_for
        return self.teacher.backbone(self._translate(images))


def _prepared(facts: Mapping[str, Any], in_channels: int, image_size: int) -> Preprocessor:
    """Return how the student's images are prepared; without facts they are pixels from 0 to 1."""
    kept = {name: facts.get(name) for name in ("preprocessing", "normalization", "dataset_name")}
    kept["preprocessing"] = {
        name: value for name, value in (kept["preprocessing"] or {}).items() if name != "eval_transform"
    }
    return Preprocessor.from_data_facts(kept, in_channels=in_channels, image_size=image_size)


class _Translation:
    """Turns the input of one network into that of another; its numbers are on the device from the start."""

    def __init__(self, student: Preprocessor, teacher: Preprocessor, device: torch.device | str = "cpu") -> None:
        names = ("mean", "std", "channel_order", "in_channels")
        self.alike = all(getattr(student, name) == getattr(teacher, name) for name in names)
        self.orders, self.in_channels = (student.channel_order, teacher.channel_order), teacher.in_channels
        self.size = (teacher.image_size,) * 2
        numbers = (student.mean, student.std, teacher.mean, teacher.std, _GREY)
        self.columns = [torch.tensor(each, dtype=torch.float32, device=device)[:, None, None] for each in numbers]

    def __call__(self, images: Tensor) -> Tensor:
        if self.alike and images.shape[-2:] == self.size:
            return images.float()
        mean, std, teacher_mean, teacher_std, weights = self.columns
        pixels = in_order(images.float(), self.orders[0]) * std + mean
        if self.in_channels != pixels.shape[1]:
            is_grey = pixels.shape[1] == 1
            pixels = pixels.expand(-1, 3, -1, -1) if is_grey else (pixels * weights).sum(1, keepdim=True)
        if pixels.shape[-2:] != self.size:
            pixels = F.interpolate(pixels, self.size, mode="bilinear", antialias=True)
        return in_order((pixels - teacher_mean) / teacher_std, self.orders[1])


def read_teacher(path: str | Path) -> TrainedModel:
    """Open a checkpoint, a folder of `save_pretrained` or an ONNX file with its YAML file beside it.

    Raises:
        SettingsError: If it cannot be read.
    """
    try:
        if is_onnx(path):
            return read_onnx(path, {})
        return read_pretrained(path) if Path(path).is_dir() else TrainedModel.from_checkpoint(path)
    except UserError as error:
        raise SettingsError(f"model.teacher: {error}") from error
