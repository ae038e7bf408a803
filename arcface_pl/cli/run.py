"""The four commands: settings, data, what will run, the run, what came out."""

import inspect
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.utilities.model_helpers import is_overridden
from rich.console import Console

from arcface_pl.callbacks import Overview, RunCheckpoint
from arcface_pl.callbacks.run.exact_resume import ExactResume
from arcface_pl.callbacks.run.refused import check_left_over
from arcface_pl.callbacks.run.resumed_settings import has_other_data
from arcface_pl.callbacks.run.run_folder import RunFolder, run_folder
from arcface_pl.callbacks.run.run_metrics import RunMetrics
from arcface_pl.callbacks.run.signals import Stopped, end_at_once, restore
from arcface_pl.callbacks.tensorboard.writer import figures_last
from arcface_pl.checkpoints.find_checkpoint import find_checkpoint
from arcface_pl.checkpoints.network import is_known
from arcface_pl.checkpoints.plugin import DurableCheckpointIO
from arcface_pl.checkpoints.reading import CheckpointFile, has_large, read_checkpoint
from arcface_pl.checkpoints.runs import NAMES, Run, run_of
from arcface_pl.cli import report
from arcface_pl.cli.command_line import Flags, Request, parse_command_line
from arcface_pl.cli.config import BASE_CONFIG, merge, read_config
from arcface_pl.cli.drawn_splits import warn_of_trained_images
from arcface_pl.cli.error_lines import library_errors
from arcface_pl.cli.inputs import read_model
from arcface_pl.cli.machine import choose_precision, keep_freed_memory, stop_driver_search
from arcface_pl.cli.own_networks import configured_networks, name_networks
from arcface_pl.cli.parser import cell
from arcface_pl.cli.profile_reports import profile_reports
from arcface_pl.cli.result_files import write_csv_result, write_json_result
from arcface_pl.cli.resume import class_node, resumed_run, settings_of_checkpoint, settings_of_run
from arcface_pl.cli.settings import ArcFaceCLI
from arcface_pl.data import ImageDataModule
from arcface_pl.data.paths import paths_of
from arcface_pl.data.protocol import check_loaders, fact
from arcface_pl.errors import CheckpointError, SettingsError, expected, printable
from arcface_pl.evaluation.thresholds import Calibration
from arcface_pl.preprocessing import Preprocessor
from arcface_pl.recognizer.onnx_model import is_onnx
from arcface_pl.recognizer.pretrained import CONFIG
from arcface_pl.training.init_from import description_of

NO_DATA = "a data module: the model does not say what data it was trained on"
_COPY = "give --ckpt_path a copy in a folder that can be written"
TRAINER_ARGUMENTS = tuple(inspect.signature(L.Trainer).parameters)


class _Start(NamedTuple):
    """The checkpoint that a command begins with, without its weights.

    Attributes:
        path: The file; None for a new run.
        run: The run that it belongs to, or that is continued; None for a copied file.
        trained_on: What it holds about its data.
    """

    path: Path | None = None
    run: Run | None = None
    trained_on: Mapping[str, Any] = MappingProxyType({})


def run(command: str, args: Sequence[str]) -> None:
    """Run one command.

    Args:
        command: fit, validate, test or predict.
        args: Its flags.

    Raises:
        SettingsError: If a setting cannot be used.
        DataError: If the data cannot be had or is damaged.
        CheckpointError: If the checkpoint cannot be used.
    """
    request = parse_command_line(command, args, TRAINER_ARGUMENTS)
    settings, flags, found = _merge_settings(request)
    _hush()
    keep_freed_memory()
    stop_driver_search()
    cli = ArcFaceCLI(settings, flags, request.helps, command)
    start = _Start() if found is None else _start_from(found, cli)
    del found
    handlers = end_at_once()
    try:
        with library_errors(start.path):
            _perform(cli, start, request.switches)
    except Stopped as stop:
        if stop.agreed and int(os.environ.get("LOCAL_RANK", "0")) == 0:
            print(f"stopped by {stop.signum.name}; --ckpt_path last resumes", file=sys.stderr)  # noqa: T201
        raise
    finally:
        restore(handlers)
    if dist.is_available() and dist.is_initialized():
        # Left to the interpreter's end, the group's threads may outlive what they use and abort the process.
        dist.destroy_process_group()


def _merge_settings(request: Request) -> tuple[dict[str, Any], Flags, CheckpointFile | None]:
    """Merge base.yaml, what the checkpoint fixes, and the command line; read the checkpoint that was asked for."""
    command, base, found = request.command, read_config(BASE_CONFIG), None
    flags: Flags
    settings, flags = request.over(base)
    if request.helps:
        return settings, flags, None
    if request.ckpt_path is not None:
        root = _last(settings, flags, "default_root_dir")
        found = _find(command, request.ckpt_path, root)
        settings, flags = _over_checkpoint(request, base, found)
    elif command == "fit":
        settings, flags = _over_initial_backbone(request, base, settings, flags)
        flags = _resolve_teacher(settings, flags)
    else:
        raise SettingsError(f"--ckpt_path: {command} needs one; accepts a path, last, last-good or best")
    precision = _last(settings, flags, "precision")
    if precision == "auto":
        precision = choose_precision(_last(settings, flags, "accelerator"))
    settings["trainer"]["precision"] = precision  # the parser refuses "auto", also where a flag overrides it
    return settings, [flag for flag in flags if flag[0] != "trainer.precision"], found


def _find(command: str, asked: str, root: str | None) -> CheckpointFile:
    if command != "fit":
        if is_onnx(asked):
            remedy = "arcface-pl evaluate and embed take an ONNX file"
            raise SettingsError(expected("--ckpt_path", asked, f"a model that {command} can build", remedy))
        return read_model(asked, root, option="--ckpt_path", mapped=True)
    if os.path.isfile(os.path.join(asked, CONFIG)):
        remedy = f"--model.init_from {printable(asked)} starts a new run from the weights in this folder"
        raise SettingsError(expected("--ckpt_path", asked, "a checkpoint, whose run is resumed", remedy))
    return find_checkpoint(asked, root, option="--ckpt_path", announces=False, mapped=True)


def _over_checkpoint(request: Request, base: dict[str, Any], found: CheckpointFile) -> tuple[dict[str, Any], Flags]:
    """Merge the command line over the settings that a checkpoint is resumed or evaluated with."""
    if request.command == "fit":
        layer = settings_of_run(found)
        if "callbacks" in layer.get("trainer", {}):
            base["trainer"]["callbacks"] = []  # those of the run, also where it was started without the base's
    else:
        layer = settings_of_checkpoint(found, other_data=request.names_data)
        if "data" not in layer and not request.names_dataset:
            raise SettingsError(expected("--data", None, NO_DATA))
    settings, flags = request.over(merge(base, layer))
    specs = found.content["hyper_parameters"]
    return settings, name_networks(found.path, specs, settings, flags, configured_networks(found))


def _resolve_teacher(settings: dict[str, Any], flags: Flags) -> Flags:
    """Turn ``model.teacher`` best or last into a path, before this run is the newest."""
    root = _last(settings, flags, "default_root_dir")

    def resolved(value: Any) -> Any:
        return str(find_checkpoint(value, root, option="model.teacher").path) if value in NAMES else value

    model = settings["model"].get("init_args", settings["model"])
    if "teacher" in model:
        model["teacher"] = resolved(model["teacher"])
    return [(name, resolved(text) if name == "model.teacher" else text) for name, text in flags]


def _over_initial_backbone(
    request: Request, base: dict[str, Any], settings: dict[str, Any], flags: Flags
) -> tuple[dict[str, Any], Flags]:
    """Resolve ``model.init_from``: a name becomes a path, and the backbone in a file of ours the one to begin with."""
    model = settings["model"].get("init_args", settings["model"])
    typed = [text for name, text in flags if name == "model.init_from"]
    source = typed[-1] if typed else model.get("init_from")
    if source in (None, "null"):
        return settings, flags
    if source in NAMES:
        source = str(find_checkpoint(source, _last(settings, flags, "default_root_dir"), option="model.init_from").path)
    spec = description_of(source).get("backbone")
    if is_known("backbone", spec):
        node = class_node("backbone", spec)
        for name in ("in_channels", "image_size"):  # those of the new data
            node["init_args"].pop(name, None)
        settings, flags = request.over(merge(base, {"model": {"backbone": node}}))
    settings["model"].get("init_args", settings["model"])["init_from"] = source
    return settings, [flag for flag in flags if flag[0] != "model.init_from"]


def _last(settings: dict[str, Any], flags: Sequence[tuple[str, str]], name: str) -> Any:
    """Return the value of a setting of the Trainer before parsing: of the last flag, else of the config files."""
    typed = [text for flag, text in flags if flag == f"trainer.{name}"]
    return typed[-1] if typed else settings["trainer"].get(name)


def _start_from(found: CheckpointFile, cli: ArcFaceCLI) -> _Start:
    """Hand a checkpoint to the Trainer, and to the data module the preprocessing that its network expects."""
    # The Trainer need not read it again, unless large tensors stay in the file: a sharded head takes its rows of them
    DurableCheckpointIO.install(cli.trainer.strategy, None if has_large(found.content) else found)
    facts = found.content.get("data") or {}
    if cli.command != "fit" and facts.get("preprocessing"):
        preprocessing = Preprocessor.from_data_facts(facts, in_channels=0, image_size=0)  # the sizes are in it
        if hasattr(cli.datamodule, "use_preprocessing"):
            cli.datamodule.use_preprocessing(preprocessing)  # whatever other images would suggest
    run = resumed_run(found) if cli.command == "fit" else run_of(*found)
    trained_on = {name: found.content.get(name) for name in ("data", type(cli.datamodule).__qualname__)}
    return _Start(found.path, run, trained_on)


def _perform(cli: ArcFaceCLI, start: _Start, switches: dict[str, str]) -> None:
    if "help_all" in switches:
        cli.print_help()
    elif "print_config" in switches:
        cli.print_config(switches["print_config"])
    elif cli.command == "fit":
        _fit(cli, start)
    else:
        _evaluate(cli, start)


def _hush() -> None:
    # Lightning's remarks on devices and on how fit ended repeat what is printed here.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It reads a torch class that torch 2.13 deprecated: nothing that a user could change.
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    # Losses are logged by the run's steps, so that an epoch of fewer than log_every_n_steps loses nothing.
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")
    # The run's folder is new, and what other loggers write there is not the CSVLogger's to delete.
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
    # Evaluation has no use for what averages weights or keeps checkpoints while training.
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks used to create")


def _fit(cli: ArcFaceCLI, start: _Start) -> None:
    try:
        with figures_last(cli.trainer) as draw_figures:
            _train(cli, start, draw_figures)
    except BaseException:
        RunFolder.of(cli.trainer).release()
        raise


def _train(cli: ArcFaceCLI, start: _Start, draw_figures: Callable[[], None]) -> None:
    trainer: Any = cli.trainer
    module, datamodule = cli.model, cli.datamodule
    if start.path is None:
        check_left_over(trainer.callbacks)
    if isinstance(datamodule, ImageDataModule):
        datamodule.prepare_data()
        datamodule.setup("fit")
    if not any(isinstance(each, ExactResume) for each in trainer.callbacks):
        trainer.callbacks.append(ExactResume())  # as an ArcFaceModule would; other modules' settings are compared too
    metrics = RunMetrics()
    if not trainer.fast_dev_run:
        trainer.loggers = [*trainer.loggers, metrics]
    console = Console(emoji=False, quiet=not trainer.is_global_zero)
    # With other data its scores and files are of the old
    if start.run is not None and not has_other_data(datamodule, start.trained_on):
        RunFolder.of(trainer).continue_in(trainer, start.run.folder, start.run.run_id)
    folder = None
    if trainer.is_global_zero and not trainer.fast_dev_run:
        suffix = f"-{datamodule.dataset_name}" if getattr(datamodule, "fell_back", False) else ""
        folder = RunFolder.of(trainer).claim(trainer, suffix)
        metrics.begin(folder)
    tests = is_overridden("test_step", module) and _check_data(trainer, datamodule, "fit", "test")
    tests = tests and fact(datamodule, "num_test") != 0
    report.announce(console, trainer, module, datamodule, folder, start.path)
    num_parameters = sum(parameter.numel() for parameter in module.parameters())  # before processes share the classes
    begun = time.perf_counter()
    with profile_reports(folder):
        trainer.fit(module, datamodule=datamodule, ckpt_path=start.path, weights_only=True)
    seconds = time.perf_counter() - begun
    if not trainer.state.finished or trainer.fast_dev_run:
        return
    policy = next((each for each in trainer.callbacks if isinstance(each, RunCheckpoint)), None)
    # A run that was stopped before the end of its first epoch has none
    best = Path(policy.best_model_path) if policy is not None and policy.best_model_path else None
    tested = []
    if tests:
        with profile_reports(folder):
            tested = trainer.test(module, datamodule=datamodule, ckpt_path=best, weights_only=True, verbose=False)
    results = {
        **report.exact(policy.best_metrics if policy is not None else {}),
        **(report.exact(tested[0]) | report.counted(trainer) if tested else {}),
        "dataset": report.dataset_of(datamodule),
        "num_parameters": num_parameters,
        "seed": cli.config.seed_everything,
        "checkpoint": None if best is None else str(best),
        "fit_seconds": seconds,
        "notices": _notices(datamodule, best),
        "versions": report.versions(),
        "waiting_threads": report.waiting_threads(),
    }
    folder = run_folder(trainer)  # a collective call: every process makes it

    def draw() -> Path | None:
        draw_figures()
        return metrics.draw()

    if trainer.is_global_zero:
        report.write_json(folder / "results.json", results)
        has_overview = any(isinstance(each, Overview) for each in trainer.callbacks)
        report.conclude(console, results, folder, trainer.loggers, draw, has_overview=has_overview)


def _notices(datamodule: Any, best: Path | None) -> list[str]:
    saved = None
    with suppress(CheckpointError):  # of a module that is not an ArcFaceModule
        saved = None if best is None else read_checkpoint(best, mapped=True).get("calibration")
    threshold = None if saved is None else Calibration.from_dict(saved).notice
    return [*fact(datamodule, "notices", ()), *([] if threshold is None else [threshold])]


def _check_data(trainer: Any, datamodule: Any, *stages: str) -> bool:
    """Check the first batches of a user's data module; return whether it has loaders for the last stage."""
    if isinstance(datamodule, ImageDataModule):
        return True
    datamodule.trainer = trainer  # as during the run
    return [check_loaders(datamodule, stage) for stage in stages][-1]


def _evaluate(cli: ArcFaceCLI, start: _Start) -> None:
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
    has_loaders = _check_data(trainer, datamodule, command)
    if not has_loaders and (command != "predict" or not _check_data(trainer, datamodule, "test")):
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
        batches = trainer.predict(cli.model, **entry)
    if not batches:
        raise SettingsError("trainer.limit_predict_batches: got 0; expected at least one batch to predict")
    paths = paths_of(trainer.predict_dataloaders)
    path = _write_predictions(path, batches, fact(datamodule, "class_names"), paths, replace)
    count = sum(len(batch["predictions"]) for batch in batches)
    console.print(f"{count:,} predictions written to {cell(path)}", soft_wrap=True)


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
