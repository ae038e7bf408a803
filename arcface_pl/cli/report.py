"""What a run prints before and after, and the results it leaves as JSON.

A data module or LightningModule of the user's need not have this package's attributes: what is missing is left out, or
printed as not known.
"""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.cells import cell_len
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from arcface_pl import __version__
from arcface_pl.checkpoints.atomic import replacing
from arcface_pl.checkpoints.find_checkpoint import age, newest_run
from arcface_pl.cli.parser import cell
from arcface_pl.cli.program import as_typed, program, shown_path, tool, word
from arcface_pl.data import ImageDataModule
from arcface_pl.data.protocol import fact
from arcface_pl.errors import SettingsError, listed

UNKNOWN = "not known"
_COUNTS = ("/num_images", "/num_correct")
# Key as logged on the validation and on the test split, and its label.
_MEASURES = {
    "accuracy": ("val/accuracy", "test/accuracy"),
    "accuracy with the margin left on": ("val/margin_accuracy", "test/margin_accuracy"),
    "loss": ("val/loss", "test/loss"),
    "mean angle to the target class": ("val/angle/target_mean", "test/angle/target_mean"),
    "mean angle to the nearest other class": ("val/angle/nearest_other_mean", "test/angle/nearest_other_mean"),
}


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    packages = {name: version(name) for name in ("torch", "lightning", "torchmetrics")}
    return {"python": platform.python_version(), "arcface_pl": __version__, **packages}


def exact(metrics: Mapping[str, float]) -> dict[str, float]:
    """Undo float32 in accuracies and counts: 0.9914000034332275 is 0.9914, a count over a count below ten million."""
    found = {name: float(f"{value:.7g}") if "accuracy" in name else value for name, value in metrics.items()}
    return {name: round(value) if name.endswith(_COUNTS) else value for name, value in found.items()}


def counted(trainer: L.Trainer) -> dict[str, float]:
    """Return how many images the last evaluation scored and how many were right, by key, from its metrics."""
    return exact({name: float(each) for name, each in trainer.callback_metrics.items() if name.endswith(_COUNTS)})


def waiting_threads() -> dict[str, str]:
    """Return how OpenMP's threads wait for one another, as variables have it: speed depends on it, results do not."""
    return {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ}


def dataset_of(datamodule: Any) -> str:
    """Return the name of the data set, or that of the data module's class."""
    return fact(datamodule, "dataset_name") or type(datamodule).__name__


def announce(
    console: Console, trainer: L.Trainer, module: Any, datamodule: Any, folder: Path | None, checkpoint: Path | None
) -> None:
    """Print what will run: data, model, parameters, device, precision, folder."""
    rows = Table.grid(padding=(0, 2))
    if isinstance(datamodule, ImageDataModule):
        datamodule.setup("fit")
    rows.add_row("data", _describe_data(datamodule))
    rows.add_row("model", _describe_model(module))
    rows.add_row("parameters", _describe_parameters(module))
    rows.add_row("device", _describe_devices(trainer, getattr(module, "num_threads", None)))
    rows.add_row("precision", _describe_precision(trainer, module))
    rows.add_row("folder", "nothing is saved" if folder is None else cell(shown_path(folder)))
    if checkpoint is not None:
        rows.add_row("resumes", f"{cell(shown_path(checkpoint))} ({age(checkpoint)} old)")
    console.print(Panel(rows, title=program("fit"), title_align="left", expand=False))


def _describe_data(datamodule: Any) -> str:
    watches_test = getattr(datamodule, "val_prefix", "val") == "test"
    sizes = {part: fact(datamodule, f"num_{part}") for part in ("train", "val", "test")}
    counts = [f"{size:,} {part}" for part, size in sizes.items() if size and not (part == "val" and watches_test)]
    names, held_out = fact(datamodule, "class_names"), fact(datamodule, "held_out_class_names", [])
    without = f"; {len(held_out):,} held out: {_some(held_out)}" if held_out else ""
    batch_size = fact(datamodule, "batch_size", UNKNOWN)
    images = f"{dataset_of(datamodule)}: {', '.join(counts) or f'number of images {UNKNOWN}'}"
    classes = f"{len(names):,} classes: {_some(names)}{without}" if names else ""
    return f"{cell(images)} (batch size per process: {batch_size})\n{cell(classes)}".rstrip()


def _some(names: Sequence[str]) -> str:
    """Return the first ten names, or the first three where ten are long."""
    return listed(names, 10 if sum(map(cell_len, names[:10])) <= 60 else 3)


def _describe_model(module: Any) -> str:
    head, backbone = getattr(module, "head", None), getattr(module, "backbone", None)
    if head is None or backbone is None:
        return type(module).__name__
    settings = ", ".join(f"{name} {getattr(head, name)}" for name in ("margin", "scale") if hasattr(head, name))
    width = getattr(head, "embedding_dim", UNKNOWN)
    return f"{type(backbone).__name__} -> {width} -> {type(head).__name__}{f' ({settings})' if settings else ''}"


def _describe_parameters(module: Any) -> str:
    sizes = {name: sum(weight.numel() for weight in part.parameters()) for name, part in module.named_children()}
    head = sizes.get("head")
    split = "" if head is None else f" ({sum(sizes.values()) - head:,} + {head:,} in the head)"
    return f"{sum(weight.numel() for weight in module.parameters()):,}{split}"


def _describe_devices(trainer: L.Trainer, num_threads: int | None) -> str:
    kind = type(trainer.accelerator).__name__.removesuffix("Accelerator")
    name = torch.cuda.get_device_name() if kind == "CUDA" else kind
    if trainer.world_size > 1:
        return f"{trainer.world_size} x {name}, {type(trainer.strategy).__name__}"
    if kind != "CPU":
        return name
    threads = num_threads or torch.get_num_threads()
    waiting = [f"{variable}={value}" for variable, value in waiting_threads().items() if threads > 1]
    return ", ".join((f"{name}, {threads} thread(s)", *waiting))


def _describe_precision(trainer: L.Trainer, module: Any) -> str:
    matmul, compiled = (getattr(module, name, None) for name in ("matmul_precision", "compile_mode"))
    parts = (
        str(trainer.precision),
        f"matrix products {matmul}" if matmul else "",
        f"training steps compiled ({compiled})" if compiled else "",
    )
    return ", ".join(filter(None, parts))


def table(console: Console, results: Mapping[str, Any]) -> None:
    """Print the scores in ``results``, one column per split.

    Args:
        console: Where to.
        results: Scores by key; ``dataset`` is the title. Scores that a module of the user's logs as ``val/NAME`` or
            ``test/NAME`` follow the package's. Counts of images come from ``val/num_images`` and alike.
    """
    logged = [key for key in results if key.startswith(("val/", "test/")) and not key.endswith(_COUNTS)]
    names = {key.partition("/")[2] for key in logged}
    ours = {key for keys in _MEASURES.values() for key in keys}
    theirs = {name: (f"val/{name}", f"test/{name}") for name in sorted(names)}
    measures = _MEASURES | {name: keys for name, keys in theirs.items() if not ours & set(keys)}
    splits = [split for split in ("val", "test") if any(key.startswith(f"{split}/") for key in results)]
    rows = Table(title=cell(results["dataset"]), title_justify="left")
    rows.add_column("")
    for split in splits:
        count = results.get(f"{split}/num_images")
        total = "" if count is None else f" ({count:,})"
        rows.add_column(f"{'validation' if split == 'val' else 'test'}{total}", justify="right")
    for label, keys in measures.items():
        cells = [_format(keys[split == "test"], results) for split in splits]
        if any(cells):
            rows.add_row(cell(label), *cells)
    if measures and splits:
        console.print(rows)


def _format(key: str, results: Mapping[str, Any]) -> str:
    if key not in results:
        return ""
    value, (split, _, name) = results[key], key.partition("/")
    if "accuracy" in key:
        images = results.get(f"{split}/num_images")
        right = {"accuracy": results.get(f"{split}/num_correct")}
        if images is not None:
            right["margin_accuracy"] = round(value * images)
        return f"{value:.2%}" + (f" ({right[name]:,})" if right.get(name) is not None else "")
    return f"{value:.1f}\N{DEGREE SIGN}" if "angle" in key else f"{value:.6f}"


def conclude(
    console: Console,
    results: Mapping[str, Any],
    folder: Path,
    loggers: Sequence[Any],
    draw: Callable[[], Path | None],
    *,
    has_overview: bool = False,
) -> None:
    """Print the closing table, draw the figures, and print what to look at and do next.

    Args:
        console: Where to.
        results: What results.json holds.
        folder: The run's folder.
        loggers: The Trainer's.
        draw: Draws all figures; returns the path of the curves, None if there are none.
        has_overview: Whether `Overview` laid out TensorBoard's Custom Scalars.
    """
    table(console, results)
    for notice in results.get("notices", ()):
        console.print(f"NOTE: {cell(as_typed(notice))}", style="bold yellow")
    if results["dataset"] == "digits":
        console.print("These are scikit-learn's digits, not MNIST.", style="bold red")
    console.print(
        f"trained in {results['fit_seconds']:.1f} s; numbers in {cell(shown_path(folder / 'results.json'))}",
        soft_wrap=True,
    )
    curves = draw()
    if results["checkpoint"]:
        console.print(f"\ncheckpoint   {cell(shown_path(results['checkpoint']))}", soft_wrap=True)
        for line in _dashboards(folder, loggers, curves, has_overview):
            console.print(cell(line), soft_wrap=True)
        if "test/accuracy" in results:  # of an ArcFaceModule, or alike
            short = word(_name_of(Path(results["checkpoint"])) or shown_path(results["checkpoint"]))
            console.print(f"predictions  {cell(program('predict'))} --ckpt_path {cell(short)}", soft_wrap=True)


def _name_of(checkpoint: Path) -> str | None:
    """Return "best" or "last" if commands in this folder take that for the checkpoint."""
    try:
        is_newest = newest_run(checkpoint.stem, Path("."), "").resolve() == checkpoint.parent.resolve()
    except SettingsError:
        return None
    return checkpoint.stem if is_newest and checkpoint.stem in ("best", "last") else None


def _dashboards(folder: Path, loggers: Sequence[Any], curves: Path | None, has_overview: bool) -> list[str]:
    """Return how to look at what each logger wrote; loggers are known by name, since they may not be installed."""
    lines = [] if curves is None else [f"curves       {shown_path(curves)}"]
    for logger in loggers:
        kinds = {cls.__name__ for cls in type(logger).__mro__}
        if "TensorBoardLogger" in kinds:
            ours = Path(logger.log_dir).resolve() == folder.resolve()
            root = word(shown_path(folder.parent if ours else logger.root_dir))
            lines.append(f"dashboards   {tool('tensorboard', 'tensorboard.main')} --logdir {root}")
            if has_overview:  # TensorBoard itself opens on the group that comes first in the alphabet, the test's
                lines.append("             http://localhost:6006/#custom_scalars (training and validation)")
        elif "WandbLogger" in kinds:
            run = logger.experiment
            url = None if getattr(run, "offline", False) else getattr(run, "url", None)  # offline wandb warns of it
            sync = f"{tool('wandb')} sync {word(shown_path(Path(run.dir).parent))}"
            lines.append(f"dashboards   {url or sync}")
        elif "MLFlowLogger" in kinds:
            store = word(logger.experiment.tracking_uri)
            lines.append(f"dashboards   {tool('mlflow')} ui --backend-store-uri {store}")
        elif "CSVLogger" in kinds:
            lines.append(f"metrics      {shown_path(Path(logger.log_dir) / 'metrics.csv')}")
    return lines


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write ``results`` as indented JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write((json.dumps(results, indent=2) + "\n").encode())
