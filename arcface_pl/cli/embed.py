"""``arcface-pl embed``: embeddings of pictures or of a data set, with labels, paths and ids, as one file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcface_pl.cli.command_line import Request, parse_command_line
from arcface_pl.cli.evaluate import data_of, device_of
from arcface_pl.cli.parser import MODEL_HELP, ToolParser, split_words
from arcface_pl.errors import FileError, SettingsError, expected, printable

if TYPE_CHECKING:
    import argparse

    import torch

    from arcface_pl.recognizer.embedding_files import EmbeddingTable

MOST_PROJECTED = 5000
_SUFFIXES = (".npz", ".safetensors", ".parquet")  # as in embedding_files, which imports torch


def run(args: list[str]) -> int:
    """Embed.

    Args:
        args: The model, pictures and flags.

    Returns:
        The exit code: 1 if a picture could not be read.

    Raises:
        UserError: If the model, the data or a path cannot be used.
    """
    data_words, words = split_words(args, "--data")
    given = _parse(words)
    request = parse_command_line("fit", data_words)
    from arcface_pl.checkpoints.results import check_result, writing_result
    from arcface_pl.figures.style import SOFTWARE
    from arcface_pl.recognizer.embedding_files import to_file

    if given.images and data_words:
        raise SettingsError(expected("IMAGE", given.images[0], f"no pictures with {data_words[0]}"))
    option = "--output" if given.output else None
    path = Path(given.output or "embeddings.npz")
    if option:
        check_result(option, path)
    for method in ("tsne", "umap"):
        if getattr(given, method):
            check_result(f"--{method}", getattr(given, method), SOFTWARE)
    _check_installed(given, path.suffix)
    table, errors = _embed(given, request)
    with writing_result(path, option=option, remedy="give --output a folder that can be written") as (file, path):
        file.write(to_file(table, path.suffix))
    count, width = table.embeddings.shape
    print(f"{printable(path)}: {count:,} embeddings of {width} numbers")  # noqa: T201
    for method in ("tsne", "umap"):
        if getattr(given, method):
            _draw(table, method, getattr(given, method))
    for each in errors:
        print(printable(each), file=sys.stderr)  # noqa: T201
    return 1 if errors else 0


def _parse(words: list[str]) -> "argparse.Namespace":
    parser = ToolParser("embed")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="files, folders or quoted patterns")
    parser.add_argument("--output", metavar="FILE", help="default: embeddings.npz; numbered if there is one")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="of the data; default: test")
    parser.add_argument("--flip", action="store_true", help="flip test: add the embedding of each mirror image")
    parser.add_argument("--tsne", type=Path, metavar="FILE", help="draw them with t-SNE, as a PNG")
    parser.add_argument("--umap", type=Path, metavar="FILE", help="draw them with UMAP, as a PNG (extra 'umap')")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu", "mps"), default="auto", help="default: auto")
    given = parser.parse_args(words)
    for name, suffixes in (("output", _SUFFIXES), ("tsne", (".png",)), ("umap", (".png",))):
        path = getattr(given, name)
        if path and Path(path).suffix not in suffixes:
            raise SettingsError(expected(f"--{name}", str(path), f"a name that ends in {' or '.join(suffixes)}"))
    return given


def _check_installed(given: "argparse.Namespace", suffix: str) -> None:
    from importlib.util import find_spec

    wanted = {"pyarrow": ("parquet", suffix == ".parquet"), "umap": ("umap", bool(given.umap))}
    for module, (extra, needed) in wanted.items():
        if needed and find_spec(module) is None:
            raise SettingsError(f"embed: {module} is not installed; pip install 'arcface_pl[{extra}]'")


def _embed(given: "argparse.Namespace", request: Request) -> "tuple[EmbeddingTable, list[str]]":
    """Return the embeddings, and what is wrong with pictures that could not be read."""
    from arcface_pl.cli.inputs import find_model, find_pictures, open_model

    device = device_of(given.accelerator)
    if given.images:
        return _embed_pictures(open_model(given.model, given.networks), find_pictures(given.images), device, given.flip)
    checkpoint, model = find_model(given.model, given.networks)
    return _embed_data(model, data_of(checkpoint, model, request, given.split), given.split, device, given.flip), []


def _embed_pictures(
    model: Any, files: list[Path], device: "torch.device", flip: bool
) -> "tuple[EmbeddingTable, list[str]]":
    import numpy as np
    import torch
    import torch.nn.functional as F

    from arcface_pl.evaluation.measure import with_mirror_images
    from arcface_pl.recognizer.embedding_files import EmbeddingTable

    network = with_mirror_images(model.to(device).backbone) if flip else model.to(device).backbone
    rows, faults = [], []
    with torch.inference_mode():
        for batch, errors in model.batches(files):
            rows.append(F.normalize(network(batch), dim=1).cpu().numpy())
            faults += errors
    ids = [place for place, fault in enumerate(faults) if fault is None]
    if not ids:
        raise SettingsError(expected("IMAGE", str(files[0]), "pictures that can be read", str(faults[0])))
    paths = [str(files[place]) for place in ids]
    facts = {"flip": flip, "made_by": model.fingerprint}
    table = EmbeddingTable(
        np.concatenate(rows), np.full(len(ids), -1), model.class_names, paths, np.array(ids), **facts
    )
    named = [
        f"{path}: {str(fault).removeprefix(f'{path}: ')}" for path, fault in zip(files, faults, strict=True) if fault
    ]
    return table, named


def _embed_data(model: Any, data: Any, split: str, device: "torch.device", flip: bool) -> "EmbeddingTable":
    import numpy as np
    import torch.nn.functional as F

    from arcface_pl.data import ImageDataModule
    from arcface_pl.data.paths import paths_of
    from arcface_pl.evaluation.measure import embed
    from arcface_pl.recognizer.embedding_files import EmbeddingTable

    is_ours = isinstance(data, ImageDataModule)
    loaders = {"train": "train_sample_dataloader" if is_ours else "train_dataloader"}
    batches = getattr(data, loaders.get(split, f"{split}_dataloader"))()
    if not batches:
        raise SettingsError(f"--split {split}: {type(data).__name__} has no such images with these settings")
    found = embed(model.to(device).backbone, batches, device, flip=flip)
    paths = paths_of(batches) or [""] * len(found.labels)
    embeddings = F.normalize(found.embeddings, dim=1).numpy()
    labels, names, ids = found.labels.numpy(), list(data.class_names), np.arange(len(paths))
    return EmbeddingTable(embeddings, labels, names, paths, ids, flip, model.fingerprint)


def _draw(table: "EmbeddingTable", method: str, path: Path) -> None:
    import numpy as np

    from arcface_pl.checkpoints.atomic import writing
    from arcface_pl.figures.projection import draw_projection
    from arcface_pl.figures.style import save

    count = len(table.ids)
    chosen = np.linspace(0, count - 1, min(count, MOST_PROJECTED)).round().astype(int)
    if len(chosen) < 5:
        raise SettingsError(expected(f"--{method}", f"{count} embeddings", "at least 5"))
    settings = {"n_components": 2, "metric": "cosine", "random_state": 0}
    neighbors = min(30, (len(chosen) - 1) // 3)
    projection: Any
    if method == "tsne":
        from sklearn.manifold import TSNE

        projection = TSNE(**settings, perplexity=neighbors, init="random")
    else:
        from umap import UMAP

        projection = UMAP(**settings, n_neighbors=max(2, neighbors), n_jobs=1)
    points = projection.fit_transform(table.embeddings[chosen])
    classes = [table.classes[place] for place in chosen]
    with writing(path, FileError, f"give --{method} a folder that can be written"):
        save(draw_projection(points, classes, {"tsne": "t-SNE", "umap": "UMAP"}[method], count), path)
    print(f"{printable(path)}: {len(chosen):,} embeddings")  # noqa: T201
