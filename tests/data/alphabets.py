"""A small made-up Omniglot: archives and folders laid out as published."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import md5
from PIL import Image

from arcface_pl.data.sources import catalog
from arcface_pl.data.sources.catalog import FileSpec

BACKGROUND = {"Arcadian": 3, "Greek": 2, "N_Ko": 2}
EVALUATION = {"Tengwar": 3, "ULOG": 2}
DRAWERS = 20


def drawings() -> dict[str, np.ndarray]:
    """Ink of both parts, (characters * 20, 105, 105) bool: boxes, each character's at another height."""
    rng = np.random.default_rng(0)
    found = {}
    for part, alphabets in (("images_background", BACKGROUND), ("images_evaluation", EVALUATION)):
        ink = np.zeros((sum(alphabets.values()) * DRAWERS, 105, 105), bool)
        for number, image in enumerate(ink):
            top, left = 10 + 12 * (number // DRAWERS) + rng.integers(8), rng.integers(10, 30)
            image[top : top + 12, left : left + rng.integers(20, 70)] = True
        found[part] = ink
    return found


def png(ink: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(~ink).save(buffer, "PNG")
    return buffer.getvalue()


def members(ink: dict[str, np.ndarray]) -> dict[str, dict[str, bytes]]:
    """Content of every file by archive, and two made-up one-shot runs of three and two characters."""
    files: dict[str, dict[str, bytes]] = {}
    first = 1
    for part, alphabets in (("images_background", BACKGROUND), ("images_evaluation", EVALUATION)):
        files[part], place = {"images_background/": b""} if part == "images_background" else {}, 0
        for alphabet, count in alphabets.items():
            for character in range(1, count + 1):
                for drawer in range(1, DRAWERS + 1):
                    name = f"{part}/{alphabet}/character{character:02d}/{first:04d}_{drawer:02d}.png"
                    files[part][name] = png(ink[part][place])
                    place += 1
                first += 1
    files["all_runs"] = {}
    for run, (characters, enrolled, asked) in enumerate((([0, 1, 2], 4, 7), ([3, 4], 0, 19)), 1):
        lines = []
        for position, character in enumerate(characters):
            item = len(characters) - position  # in another order than the classes
            for kind, number, drawer in (("training/class", position + 1, enrolled), ("test/item", item, asked)):
                image = ink["images_evaluation"][character * DRAWERS + drawer]
                files["all_runs"][f"run{run:02d}/{kind}{number:02d}.png"] = png(image)
            lines.append(f"run{run:02d}/test/item{item:02d}.png run{run:02d}/training/class{position + 1:02d}.png\n")
        files["all_runs"][f"run{run:02d}/class_labels.txt"] = "".join(sorted(lines)).encode()
    return files


def archives(files: dict[str, dict[str, bytes]]) -> dict[str, bytes]:
    packed = {}
    for name, contents in files.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path, content in contents.items():
                archive.writestr(path, content)
        packed[f"{name}.zip"] = buffer.getvalue()
    return packed


def write_archives(root: Path, packed: dict[str, bytes]) -> Path:
    folder = root / "omniglot-py"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in packed.items():
        (folder / name).write_bytes(content)
    return folder


def use_made_up(monkeypatch: pytest.MonkeyPatch, packed: dict[str, bytes], mirrors: tuple[str, ...] = ()) -> None:
    """Put the made-up alphabets and the archives' checksums in the catalog."""
    monkeypatch.setattr(catalog, "BACKGROUND_ALPHABETS", BACKGROUND)
    monkeypatch.setattr(catalog, "EVALUATION_ALPHABETS", EVALUATION)
    for name in ("OMNIGLOT", "OMNIGLOT_RUNS"):
        spec = getattr(catalog, name)
        files = tuple(FileSpec(file.name, md5(packed[file.name])) for file in spec.files)
        monkeypatch.setattr(catalog, name, replace(spec, files=files, mirrors=mirrors))
