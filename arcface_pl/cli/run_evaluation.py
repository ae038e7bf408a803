"""validate, test and predict: one pass over the data of a run, and its scores or predictions."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from rich.console import Console

from arcface_pl.checkpoints.runs import Run
from arcface_pl.cli import report
from arcface_pl.cli.drawn_splits import warn_of_trained_images
from arcface_pl.cli.parser import cell
from arcface_pl.cli.profile_reports import profile_reports
from arcface_pl.cli.program import shown_path
from arcface_pl.cli.result_files import write_csv_result, write_json_result
from arcface_pl.cli.settings import ArcFaceCLI
from arcface_pl.data import ImageDataModule
from arcface_pl.data.paths import paths_of
from arcface_pl.data.protocol import check_loaders, fact
from arcface_pl.errors import SettingsError, expected

_COPY = "give --ckpt_path a copy in a folder that can be written"


class Start(NamedTuple):
    """The checkpoint that a command begins with, without its weights.

    Attributes:
        path: The file; None for a new run.
        run: The run that it belongs to, or that is continued; None for a copied file.
        trained_on: What it holds about its data.
        step: Optimizer steps that it has seen; None for a new run.
    """

    path: Path | None = None
    run: Run | None = None
    trained_on: Mapping[str, Any] = MappingProxyType({})
    step: int | None = None


def check_data(trainer: Any, datamodule: Any, *stages: str) -> bool:
    """Check the first batches of a user's data module; return whether it has loaders for the last stage."""
    if isinstance(datamodule, ImageDataModule):
        return True
    datamodule.trainer = trainer  # as during the run
    return [check_loaders(datamodule, stage) for stage in stages][-1]


def evaluate_run(cli: ArcFaceCLI, start: Start) -> None:
    trainer: Any = cli.trainer
    command, datamodule = cli.command, cli.datamodule
    if isinstance(datamodule, ImageDataModule):
        datamodule.prepare_data()
        datamodule.setup("test")
        if trainer.is_global_zero and start.path is not None:
            split = "val" if command == "validate" else "test"
            warn_of_trained_images(datamodule, split, start.path, start.trained_on["data"] or {})
        if command != "validate" and not datamodule.num_test:
            got = f"{datamodule.dataset_name} without test images of trained classes"
            remedy = "arcface-pl evaluate measures the held-out classes" if datamodule.held_out_class_names else ""
            raise SettingsError(expected("data", got, f"images to {command} on", remedy))
    has_loaders = check_data(trainer, datamodule, command)
    if not has_loaders and (command != "predict" or not check_data(trainer, datamodule, "test")):
        what = "val" if command == "validate" else command
        raise SettingsError(expected("data", type(datamodule).__name__, f"a data module with a {what}_dataloader"))
    assert start.path is not None
    console = Console(emoji=False, quiet=not trainer.is_global_zero)
    place = start.path.parent if start.run is None else start.run.folder
    entry = {"datamodule": datamodule, "ckpt_path": start.path, "weights_only": True}
    if command == "predict":
        _predict(cli, entry, has_loaders, console, place / "predictions.csv", replace=start.run is not None)
        return
    with profile_reports(None if start.run is None else start.run.folder):
        scores = (trainer.validate if command == "validate" else trainer.test)(cli.model, verbose=False, **entry)
    if not scores:
        limit = f"trainer.limit_{'val' if command == 'validate' else 'test'}_batches: got 0"
        none = fact(datamodule, "num_val") == 0 and command == "validate"
        raise SettingsError(f"{'data.val_fraction: got 0' if none else limit}; expected images to {command} on")
    if trainer.is_global_zero:
        measured = report.exact(scores[0]) | report.counted(trainer)
        results = {**measured, "dataset": report.dataset_of(datamodule), "checkpoint": str(start.path)}
        write_json_result(place / f"{command}.json", results, replace=start.run is not None, remedy=_COPY)
        report.table(console, results)


def _predict(
    cli: ArcFaceCLI, entry: dict[str, Any], has_loaders: bool, console: Console, path: Path, replace: bool
) -> None:
    trainer: Any = cli.trainer
    datamodule: Any = cli.datamodule
    if trainer.world_size > 1:
        raise SettingsError(expected("trainer.devices", trainer.world_size, "1 for predict"))
    if not isinstance(datamodule, ImageDataModule):
        # Made out of Lightning's sight, which cannot copy loaders that were given a positional batch size
        loader = datamodule.predict_dataloader() if has_loaders else datamodule.test_dataloader()
        datamodule.predict_dataloader = lambda: loader
    with profile_reports(path.parent if replace else None):
        found = trainer.predict(cli.model, **entry)
    # Several loaders make a list each
    batches = [batch for each in found or () for batch in (each if isinstance(each, list) else [each])]
    if not batches:
        raise SettingsError("trainer.limit_predict_batches: got 0; expected at least one batch to predict")
    paths = paths_of(trainer.predict_dataloaders)
    path = _write_predictions(path, batches, fact(datamodule, "class_names"), paths, replace)
    count = sum(len(batch["predictions"]) for batch in batches)
    console.print(f"{count:,} predictions written to {cell(shown_path(path))}", soft_wrap=True)


def _write_predictions(
    path: Path, batches: list[Any], class_names: list[str] | None, paths: list[str] | None, replace: bool
) -> Path:
    joined = {name: torch.cat([batch[name] for batch in batches]).tolist() for name in batches[0]}
    named = (lambda label: label) if class_names is None else class_names.__getitem__
    header = ["index", "label", "prediction", "cosine", "angle_degrees", *(["file"] if paths else [])]
    rows = []
    for index, (prediction, cosine) in enumerate(zip(joined["predictions"], joined["cosine"], strict=True)):
        angle = torch.rad2deg(torch.tensor(cosine, dtype=torch.float64).clamp(-1, 1).acos()).item()
        label = named(joined["labels"][index]) if "labels" in joined else None
        row = [index, label, named(prediction), round(cosine, 6), round(angle, 3)]
        rows.append([*row, paths[index]] if paths else row)
    return write_csv_result(path, header, rows, replace=replace, remedy=_COPY)
