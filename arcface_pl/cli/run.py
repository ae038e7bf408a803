"""The four commands: settings, data, what will run, the run, what came out."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

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
from arcface_pl.checkpoints.plugin import DurableCheckpointIO
from arcface_pl.checkpoints.reading import CheckpointFile, has_large, read_checkpoint
from arcface_pl.checkpoints.runs import run_of
from arcface_pl.cli import report
from arcface_pl.cli.command_line import parse_command_line
from arcface_pl.cli.error_lines import library_errors
from arcface_pl.cli.machine import prepare_process
from arcface_pl.cli.profile_reports import profile_reports
from arcface_pl.cli.resume import resumed_run
from arcface_pl.cli.run_evaluation import Start, check_data, evaluate_run
from arcface_pl.cli.run_settings import merge_settings
from arcface_pl.cli.settings import ArcFaceCLI
from arcface_pl.data import ImageDataModule
from arcface_pl.data.protocol import fact
from arcface_pl.errors import CheckpointError
from arcface_pl.evaluation.thresholds import Calibration
from arcface_pl.preprocessing import Preprocessor


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
    request = parse_command_line(command, args)
    settings, flags, found = merge_settings(request)
    _hush()
    cli = ArcFaceCLI(settings, flags, request.helps, command)
    start = Start() if found is None else _start_from(found, cli)
    del found
    handlers = end_at_once()
    try:
        with library_errors(start.path, cli):
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


def _start_from(found: CheckpointFile, cli: ArcFaceCLI) -> Start:
    """Hand a checkpoint to the Trainer, and to the data module the preprocessing that its network expects."""
    # The Trainer need not read it again, unless large tensors stay in the file: a sharded head takes its rows of them
    DurableCheckpointIO.install(cli.trainer.strategy, None if has_large(found.content) else found)
    facts = found.content.get("data") or {}
    if cli.command != "fit" and facts.get("preprocessing"):
        preprocessing = Preprocessor.from_data_facts(facts, in_channels=0, image_size=0)  # the sizes are in it
        if hasattr(cli.datamodule, "use_preprocessing"):
            cli.datamodule.use_preprocessing(preprocessing)  # whatever other images would suggest
    if isinstance(cli.datamodule, ImageDataModule):
        cli.datamodule.tell_trained_on(facts)
    run = resumed_run(found) if cli.command == "fit" else run_of(*found)
    trained_on = {name: found.content.get(name) for name in ("data", type(cli.datamodule).__qualname__)}
    return Start(found.path, run, trained_on, found.content.get("global_step"))


def _perform(cli: ArcFaceCLI, start: Start, switches: dict[str, str]) -> None:
    if "help_all" in switches:
        cli.print_help()
    elif "print_config" in switches:
        cli.print_config(switches["print_config"])
    elif cli.command == "fit":
        _fit(cli, start)
    else:
        evaluate_run(cli, start)


def _hush() -> None:
    prepare_process(logging.WARNING)  # its remarks on devices and on how fit ended repeat what is printed here
    # Losses are logged by the run's steps, so that an epoch of fewer than log_every_n_steps loses nothing.
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")
    # The run's folder is new, and what other loggers write there is not the CSVLogger's to delete.
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
    # Evaluation has no use for what averages weights or keeps checkpoints while training.
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks used to create")


def _fit(cli: ArcFaceCLI, start: Start) -> None:
    try:
        with figures_last(cli.trainer) as draw_figures:
            _train(cli, start, draw_figures)
    except BaseException:
        RunFolder.of(cli.trainer).release()
        raise


def _prepare(trainer: Any, datamodule: Any, start: Start, metrics: RunMetrics) -> Path | None:
    """Set up the data and what every run has; return its folder, in the process that writes to it."""
    if start.path is None:
        check_left_over(trainer.callbacks)
    if isinstance(datamodule, ImageDataModule):
        datamodule.prepare_data()
        datamodule.setup("fit")
    if not any(isinstance(each, ExactResume) for each in trainer.callbacks):
        trainer.callbacks.append(ExactResume())  # as an ArcFaceModule would; other modules' settings are compared too
    if not trainer.fast_dev_run:
        trainer.loggers = [*trainer.loggers, metrics]
    # With other data its scores and files are of the old
    if start.run is not None and not has_other_data(datamodule, start.trained_on):
        RunFolder.of(trainer).continue_in(trainer, start.run.folder, start.run.run_id)
    if not trainer.is_global_zero or trainer.fast_dev_run:
        return None
    suffix = f"-{datamodule.dataset_name}" if getattr(datamodule, "fell_back", False) else ""
    folder = RunFolder.of(trainer).claim(trainer, suffix)
    metrics.begin(folder)
    return folder


def _train(cli: ArcFaceCLI, start: Start, draw_figures: Callable[[], None]) -> None:
    trainer: Any = cli.trainer
    module, datamodule = cli.model, cli.datamodule
    metrics = RunMetrics()
    folder = _prepare(trainer, datamodule, start, metrics)
    console = Console(emoji=False, quiet=not trainer.is_global_zero)
    tests = is_overridden("test_step", module) and check_data(trainer, datamodule, "fit", "test")
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
        "notices": [*_nothing_trained(trainer, start), *_notices(datamodule, best)],
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


def _nothing_trained(trainer: Any, start: Start) -> list[str]:
    """Return a notice if the run was resumed at its end."""
    if trainer.global_step != start.step:
        return []
    end = f"max_epochs {trainer.max_epochs}, max_steps {trainer.max_steps}"
    reached = f"the checkpoint is at epoch {trainer.current_epoch}, step {trainer.global_step}"
    return [f"nothing was left to train: {reached}; the run ends at {end}. Give a larger number to continue"]


def _notices(datamodule: Any, best: Path | None) -> list[str]:
    saved = None
    with suppress(CheckpointError):  # of a module that is not an ArcFaceModule
        saved = None if best is None else read_checkpoint(best, mapped=True).get("calibration")
    threshold = None if saved is None else Calibration.from_dict(saved).notice
    return [*fact(datamodule, "notices", ()), *([] if threshold is None else [threshold])]
