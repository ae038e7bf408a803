"""`LoadedModel`: where the model of a `Recognizer` comes from, and where it is written to."""

import tempfile
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from arcface_pl.errors import UserError, expected, listed
from arcface_pl.functional.checks import check_count
from arcface_pl.heads import Head
from arcface_pl.recognizer.answers import Thresholds
from arcface_pl.recognizer.embedding_space import embedding_space
from arcface_pl.recognizer.hub import download, is_hub_name, upload
from arcface_pl.recognizer.onnx_model import SETTINGS, read_onnx
from arcface_pl.recognizer.pretrained import read_pretrained, write_pretrained
from arcface_pl.recognizer.trained import TrainedModel


class LoadedModel:
    """A trained model on a device, from any of the files that hold one."""

    def __init__(self, model: TrainedModel, *, device: str | torch.device = "cpu") -> None:
        self.model = model.to(device)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        backbone: nn.Module | None = None,
        head: Head | None = None,
    ) -> Self:
        """Load the model of a checkpoint.

        Args:
            path: A checkpoint of an `ArcFaceModule`.
            device: Device of the network.
            backbone: Needed if the checkpoint's backbone is not a class of this package.
            head: Needed if the checkpoint's head is not a class of this package.

        Raises:
            CheckpointError: If the file is damaged, unsafe, or does not fit the classes.
        """
        return cls(TrainedModel.from_checkpoint(path, backbone=backbone, head=head), device=device)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        backbone: nn.Module | None = None,
        head: Head | None = None,
        revision: str | None = None,
    ) -> Self:
        """Load a folder that `save_pretrained` wrote, or a repository of the Hugging Face Hub; nothing is unpickled.

        Args:
            folder: Holds ``config.json`` and ``model.safetensors``; or ``org/name`` of the Hub (extra ``hub``), which
                is only asked if nothing here has that name.
            device: Device of the network.
            backbone: Needed if the model's backbone is not a class of this package.
            head: Needed if the model's head is not a class of this package.
            revision: Branch, tag or commit of the Hub's repository; unset: its main branch.

        Raises:
            PretrainedError: If a file is missing, damaged or of another version, or the Hub cannot be reached.
        """
        if is_hub_name(folder):
            folder = download(str(folder), revision)
        return cls(read_pretrained(folder, backbone=backbone, head=head), device=device)

    @classmethod
    def from_onnx(cls, path: str | Path, **settings: Any) -> Self:
        """Open an ONNX file with one image input and one output of embeddings (extra ``export``).

        It has no trained classes: pictures are embedded, compared, and identified by enrolled names.

        Args:
            path: The file.
            **settings: ``mean``, ``std``, ``channel_order``, ``layout`` and ``image_size``, as for
                `arcface_pl.recognizer.onnx_model.read_onnx`; those in the YAML file beside it may be left out.

        Raises:
            ExportError: If the file cannot be used, or a setting is missing.
        """
        if unknown := [name for name in settings if name not in SETTINGS]:
            raise TypeError(expected("settings", unknown[0], f"one of {listed(SETTINGS)}"))
        return cls(read_onnx(path, settings))

    @classmethod
    def for_embeddings(cls, embedding_dim: int, made_by: str) -> Self:
        """Make a recognizer without a network: it enrolls, identifies and compares `Embeddings`, no pictures.

        Args:
            embedding_dim: D, the width of the embeddings.
            made_by: What makes them, such as "sface-2021dec": a gallery of another name is refused.
        """
        check_count("embedding_dim", embedding_dim, low=1)
        if not isinstance(made_by, str) or not made_by.strip():
            raise UserError(expected("made_by", made_by, "the name of what makes the embeddings"))
        return cls(embedding_space(embedding_dim, made_by))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the weights, ``config.json`` and a model card to a folder.

        Args:
            folder: A new or empty folder, or one that this method wrote.

        Raises:
            PretrainedError: If it cannot be written, or holds other files.
        """
        write_pretrained(self.model, folder)

    def push_to_hub(self, name: str, *, private: bool = True, message: str = "Upload an arcface_pl model") -> str:
        """Upload what `save_pretrained` writes to the Hugging Face Hub (extra ``hub``), as the user logged in there.

        Args:
            name: ``org/name``; created if there is none.
            private: Whether a new repository is private.
            message: The commit's message.

        Returns:
            Address of the commit.

        Raises:
            PretrainedError: If it cannot be uploaded.
        """
        with tempfile.TemporaryDirectory() as place:
            write_pretrained(self.model, Path(place) / "model")
            return upload(Path(place) / "model", name, private=private, message=message)

    @property
    def class_names(self) -> list[str]:
        """Names of the trained classes, in label order."""
        return self.model.class_names

    @property
    def thresholds(self) -> Thresholds:
        """The stored thresholds."""
        return Thresholds.of(self.model.calibration)
