"""What the commands that use a trained model are given: the model, and pictures of which some may be unreadable."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.cli.config import SettingsError
from arcface_pl.preprocessing import ImageError, read_image
from arcface_pl.recognizer import TrainedModel
from arcface_pl.recognizer.pretrained import read_pretrained

__all__ = ["Pictures", "find_checkpoint", "find_pictures", "name_folders", "open_model", "read_pictures"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".avif", ".jp2", ".pgm", ".ppm", ".tga"}


class Pictures(NamedTuple):
    """Pictures as the network's size, and what became of each file.

    Attributes:
        pixels: (B, C, S, S) uint8.
        paths: The files they were read from, B of them.
        errors: What is wrong with each of the others.
    """

    pixels: Tensor
    paths: list[Path]
    errors: dict[Path, str]


def open_model(name: str) -> TrainedModel:
    """Open a checkpoint, the newest run's best or last one, or a folder that `save_pretrained` wrote.

    Raises:
        UserError: If there is none, or it cannot be used.
    """
    if Path(name).is_dir():
        return read_pretrained(name)
    return TrainedModel.from_checkpoint(find_checkpoint(name))


def find_checkpoint(name: str) -> Path:
    """Return the checkpoint of that path, or for last and best that of the newest run below the current folder."""
    if name not in ("last", "best"):
        return Path(name)
    found = Path("lightning_logs").glob(f"*/checkpoints/{name}.ckpt")
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise SettingsError(f"{name}: no run under lightning_logs has a checkpoints/{name}.ckpt; accepts a path")
    return newest


def find_pictures(names: Sequence[str | Path]) -> list[Path]:
    """Return the files that names stand for: a folder for the pictures in it, anything else for itself.

    Raises:
        SettingsError: If a folder has no picture.
    """
    files: list[Path] = []
    for path in map(Path, names):
        inside = _pictures_in(path) if path.is_dir() else [path]
        if not inside:
            raise SettingsError(f"{path}: there is no picture in this folder; accepts {', '.join(sorted(SUFFIXES))}")
        files += inside
    return files


def name_folders(names: Sequence[str | Path]) -> Iterator[tuple[str, list[Path]]]:
    """Yield names and their pictures: each folder is one name, or holds a folder for each of several.

    Raises:
        SettingsError: If one is no folder, or has no picture.
    """
    for path in map(Path, names):
        if not path.is_dir():
            raise SettingsError(f"{path}: there is no such folder; accepts one whose name is to be enrolled")
        inner = [] if _pictures_in(path) else sorted(each for each in path.iterdir() if each.is_dir())
        for folder in inner or [path]:
            # resolve(): a dot has no name
            yield folder.resolve().name, find_pictures([folder])


def read_pictures(model: TrainedModel, paths: Sequence[Path]) -> Pictures:
    """Read files and frame them for the model; one that cannot be read is noted, and the others go on."""
    to_input = model.preprocessor
    pixels: dict[Path, Tensor] = {}
    errors: dict[Path, str] = {}
    for path in paths:
        try:
            pixels[path] = to_input.frame(read_image(path, to_input.in_channels))
        except ImageError as error:
            errors[path] = str(error).removeprefix(f"{path}: ")
    none = torch.empty(0, to_input.in_channels, to_input.image_size, to_input.image_size, dtype=torch.uint8)
    return Pictures(torch.stack(list(pixels.values())) if pixels else none, list(pixels), errors)


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES and each.is_file())
