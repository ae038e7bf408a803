"""What a run prints before and after, and the results it leaves as JSON."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import SaveConfigCallback
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from arcface_pl.checkpoints.atomic import replacing

__all__ = ["SaveConfig", "announce", "conclude", "exact", "table", "versions", "write_json"]

# Key as logged on the validation and on the test split, and what it is.
_MEASURES = (
    ("val/accuracy", "test/accuracy", "accuracy"),
    ("val/margin_accuracy", "test/margin_accuracy", "share right with the margin left on the true class"),
    ("val/loss", "test/loss", "loss"),
    ("angle/target_mean", "test/angle/target_mean", "mean angle to the own class"),
    ("angle/nearest_other_mean", "test/angle/nearest_other_mean", "mean angle to the nearest other class"),
)


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    packages = {name: version(name) for name in ("arcface_pl", "torch", "lightning", "torchmetrics")}
    return {"python": platform.python_version(), **packages}


def exact(metrics: dict[str, float]) -> dict[str, float]:
    """Undo float32 in accuracies: 0.9914000034332275 is 0.9914, a count over a count below ten million."""
    return {name: float(f"{value:.7g}") if "accuracy" in name else value for name, value in metrics.items()}


def announce(console: Console, trainer: L.Trainer, module: Any, datamodule: Any, checkpoint: Path | None) -> None:
    """Print what will run: data, model, parameters, device, precision, folder."""
    rows = Table.grid(padding=(0, 2))
    sizes = [sum(weight.numel() for weight in part.parameters()) for part in (module.backbone, module.head)]
    head = module.head
    settings = ", ".join(f"{name} {getattr(head, name)}" for name in ("margin", "scale") if hasattr(head, name))
    datamodule.setup("fit")
    rows.add_row("data", _describe_data(datamodule))
    rows.add_row(
        "model", f"{type(module.backbone).__name__} -> {head.embedding_dim} -> {type(head).__name__} ({settings})"
    )
    rows.add_row("parameters", f"{sum(sizes):,} ({sizes[0]:,} + {sizes[1]:,} in the head)")
    rows.add_row("device", _describe_devices(trainer, module.num_threads))
    rows.add_row("precision", _describe_precision(trainer, module))
    # trainer.log_dir would wait for the other processes, which are not there before fit.
    folder = trainer.logger.log_dir if trainer.logger else None
    rows.add_row("folder", os.path.relpath(folder or trainer.default_root_dir))
    if checkpoint is not None:
        rows.add_row("goes on from", str(checkpoint))
    console.print(Panel(rows, title="arcface-pl fit", title_align="left", expand=False))


def _describe_data(datamodule: Any) -> str:
    counts = ", ".join(
        f"{getattr(datamodule, f'num_{part}'):,} {part}"
        for part in ("train", "val", "test")
        if getattr(datamodule, f"num_{part}", None) and not (part == "val" and datamodule.val_prefix == "test")
    )
    held_out = getattr(datamodule, "held_out_class_names", [])
    without = f", without {', '.join(held_out)}" if held_out else ""
    return f"{datamodule.dataset_name}{without}: {counts} ({datamodule.batch_size} images a step and process)"


def _describe_devices(trainer: L.Trainer, num_threads: int | None) -> str:
    kind = type(trainer.accelerator).__name__.removesuffix("Accelerator")
    name = torch.cuda.get_device_name() if kind == "CUDA" else kind
    if trainer.world_size > 1:
        return f"{trainer.world_size} x {name}, {type(trainer.strategy).__name__}"
    return f"{name}, {num_threads or torch.get_num_threads()} thread(s)" if kind == "CPU" else name


def _describe_precision(trainer: L.Trainer, module: Any) -> str:
    matmul = f"matrix products {module.matmul_precision}" if module.matmul_precision else ""
    compiled = f"training steps compiled ({module.compile_mode})" if module.compile_mode else ""
    return ", ".join(filter(None, (str(trainer.precision), matmul, compiled)))


def table(console: Console, results: dict[str, Any], datamodule: Any) -> None:
    """Print the numbers of ``results`` as a table, a column a split."""
    splits = [split for split in ("val", "test") if f"{split}/accuracy" in results]
    rows = Table(title=results["dataset"], title_justify="left")
    rows.add_column("")
    for split in splits:
        total = getattr(datamodule, f"num_{split}")
        rows.add_column(f"{'validation' if split == 'val' else 'test'} ({total:,})", justify="right")
    for val_key, test_key, label in _MEASURES:
        keys = {"val": val_key, "test": test_key}
        rows.add_row(label, *(_format(keys[split], results, getattr(datamodule, f"num_{split}")) for split in splits))
    console.print(rows)


def _format(key: str, results: dict[str, Any], total: int) -> str:
    if key not in results:
        return ""
    value = results[key]
    if "accuracy" in key:
        return f"{value:.2%} ({round(value * total):,})"
    return f"{value:.1f}\N{DEGREE SIGN}" if "angle" in key else f"{value:.6f}"


def conclude(console: Console, results: dict[str, Any], folder: Path, datamodule: Any) -> None:
    """Print the closing table and the commands to type next."""
    table(console, results, datamodule)
    if datamodule.dataset_name == "digits":
        console.print("These are scikit-learn's digits, not MNIST.", style="bold red")
    console.print(f"trained in {results['fit_seconds']:.1f} s; numbers in {folder / 'results.json'}", soft_wrap=True)
    if results["checkpoint"]:
        checkpoint = os.path.relpath(results["checkpoint"])
        console.print(f"\ncheckpoint   {checkpoint}", soft_wrap=True)
        console.print(f"dashboards   tensorboard --logdir {os.path.relpath(folder.parent)}", soft_wrap=True)
        console.print(f"predictions  arcface-pl predict --ckpt_path {checkpoint}", soft_wrap=True)


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write ``results``, readable by a person."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write((json.dumps(results, indent=2) + "\n").encode())


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml into the run's folder: whole, since a resumed run writes over the one that it goes on with."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Wait: the checkpoint may yet refuse to go on with these settings."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write it."""
        folder = trainer.log_dir  # a collective call: every process makes it
        if trainer.is_global_zero and folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with replacing(Path(folder) / self.config_filename) as file:
                file.write(self.parser.dump(self.config, format="yaml", skip_none=False).encode())
