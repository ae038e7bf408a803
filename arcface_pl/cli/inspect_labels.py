"""``arcface-pl inspect``: images whose label looks wrong, ranked, and images that two classes share."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcface_pl.cli.command_line import Request, parse_command_line
from arcface_pl.cli.evaluate import data_of, device_of
from arcface_pl.cli.parser import MODEL_HELP, ToolParser, number, split_words
from arcface_pl.errors import DataError, SettingsError, expected

if TYPE_CHECKING:
    import argparse

    from arcface_pl.checkpoints.reading import CheckpointFile

SPLITS = ("train", "val", "test")
MOST_SHOWN = 10  # rows of the table on the console


def run(args: list[str]) -> None:
    """Audit the labels of a data set.

    Args:
        args: What follows ``inspect``.

    Raises:
        UserError: If the checkpoint, the data, a setting or a path cannot be used.
    """
    data_words, words = split_words(args, "--data")
    given = _parse(words)
    request = parse_command_line("fit", data_words)
    from arcface_pl.checkpoints.runs import run_of
    from arcface_pl.cli import label_report as report
    from arcface_pl.cli.inputs import read_model
    from arcface_pl.evaluation.label_noise import MOST_COMPARED, find_twins

    checkpoint = read_model(given.checkpoint)
    kept_in = run_of(*checkpoint)
    place = checkpoint.path.parent if kept_in is None else kept_in.folder
    folder = given.output or place / "inspect"
    report.check_places(folder)
    splits = SPLITS if given.split == "all" else (given.split,)
    names, audited, angles = (_cross_fit if given.folds else _judge)(checkpoint, given, request, splits)
    twins = find_twins(audited.small, audited.digests, audited.labels, given.similarity)
    found = report.Findings(audited, angles, twins, names)
    facts = {"checkpoint": str(checkpoint.path), "split": given.split, "folds": given.folds}
    if len(audited.labels) > MOST_COMPARED and given.similarity < 1:
        facts["not_measured"] = f"near duplicates: more than {MOST_COMPARED:,} images; identical ones were searched for"
    report.print_findings(found, facts, MOST_SHOWN)
    report.write(found, facts, folder, given.images)


def _judge(checkpoint: "CheckpointFile", given: "argparse.Namespace", request: Request, splits: tuple[str, ...]) -> Any:
    """Judge by the checkpoint's own network; returns class names, images and angles."""
    from arcface_pl.cli.inputs import open_model
    from arcface_pl.data import ImageDataModule, PairsDataModule
    from arcface_pl.data.protocol import check_loaders
    from arcface_pl.evaluation.audit import AuditedImages
    from arcface_pl.evaluation.label_noise import label_angles

    device = device_of(given.accelerator)
    model = open_model(checkpoint, given.networks)
    data = data_of(checkpoint, model, request, splits[0])
    if "test" in splits and not isinstance(data, ImageDataModule | PairsDataModule):
        check_loaders(data, "test")
    audited = AuditedImages.of(data, splits)
    if len(audited.labels.unique()) < 2:
        raise DataError(expected("data", "images of one class", "images of two or more"))
    names = list(data.class_names)
    head = model.head if names == model.class_names else None
    return names, audited, label_angles(audited.embed(model.to(device).backbone, device), audited.labels, head)


def _cross_fit(
    checkpoint: "CheckpointFile", given: "argparse.Namespace", request: Request, splits: tuple[str, ...]
) -> Any:
    """Judge by new networks, each image by one that has not seen it; returns class names, images and angles."""
    from arcface_pl.cli.cross_fit import Refit
    from arcface_pl.evaluation.audit import AuditedImages, cross_fit

    if checkpoint.path.is_dir() or checkpoint.path.suffix in (".safetensors", ".onnx"):
        accepted = "a checkpoint of a run, whose settings train the new networks"
        raise SettingsError(expected("--folds", f"{given.folds} with {checkpoint.path}", accepted))
    device = device_of(given.accelerator)
    refit = Refit(checkpoint, request, given.max_epochs, given.accelerator)
    audited = AuditedImages.of(refit.data, splits)
    angles = cross_fit(refit.data, audited, given.folds, refit, seed=refit.seed, device=device)
    return list(refit.data.class_names), audited, angles


def _parse(words: list[str]) -> "argparse.Namespace":
    parser = ToolParser("inspect")
    parser.add_argument("checkpoint", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--folds",
        type=number(int, 0, 100, "0 for none, or a number of folds from 2 to 100"),
        default=0,
        metavar="K",
        help="train K networks, each without a K-th of the training images (default: 0)",
    )
    parser.add_argument(
        "--max_epochs",
        type=number(int, 1, 10**6, "a number of epochs of at least 1"),
        metavar="N",
        help="epochs of each of the K networks; default: as many as the run's",
    )
    parser.add_argument("--split", choices=(*SPLITS, "all"), default="all", help="images to audit; default: all")
    parser.add_argument(
        "--similarity",
        type=number(float, 0.5, 1, "a correlation from 0.5 to 1"),
        default=0.98,
        metavar="R",
        help="correlation from which images of two classes are shared; 1: identical ones only (default: 0.98)",
    )
    parser.add_argument(
        "--images",
        type=number(int, 0, 1000, "a number of images from 0 to 1000"),
        default=64,
        metavar="N",
        help="images on each contact sheet; 0: none (default: 64)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: inspect/ in the checkpoint's run")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu", "mps"), default="auto", help="default: auto")
    given = parser.parse_args(words)
    if given.folds == 1:
        raise SettingsError(expected("--folds", 1, "0 for none, or a number of folds from 2 to 100"))
    if given.folds and given.split not in ("train", "all"):
        raise SettingsError(
            expected("--folds", given.folds, f"0 with --split {given.split}: no network has seen these")
        )
    if given.max_epochs and not given.folds:
        raise SettingsError(expected("--max_epochs", given.max_epochs, "none without --folds: nothing is trained"))
    return given
