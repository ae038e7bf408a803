"""A small made-up data set in MNIST's format."""

import gzip
import hashlib
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from arcface_pl.data.sources.catalog import CATALOG, DatasetSpec, FileSpec

NAMES = tuple(file.name for file in CATALOG["mnist"].files)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def idx(values: torch.Tensor) -> bytes:
    """Write a uint8 tensor as IDX, from the format's description alone."""
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.numpy().tobytes()


@dataclass
class MadeUp:
    """A made-up MNIST: what its files hold, and the spec that describes them."""

    spec: DatasetSpec
    files: dict[str, bytes]
    images: list[torch.Tensor]
    labels: list[torch.Tensor]

    def write(self, root: Path) -> Path:
        folder = root / self.spec.folder
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder


def make_up() -> MadeUp:
    generator = torch.Generator().manual_seed(0)
    images, labels = [], []
    for count in (120, 30):
        images.append(torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8))
        labels.append((torch.randperm(count, generator=generator) % 10).to(torch.uint8))
    contents = [idx(values) for pair in zip(images, labels, strict=True) for values in pair]
    files = {name: gzip.compress(content, mtime=0) for name, content in zip(NAMES, contents, strict=True)}
    specs = tuple(FileSpec(name, md5(files[name]), md5(content)) for name, content in zip(NAMES, contents, strict=True))
    spec = replace(CATALOG["mnist"], num_train=120, num_test=30, files=specs, mirrors=())
    return MadeUp(spec, files, images, labels)
