"""Small runs that several tests make, resume and compare."""

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "use_distributed_sampler": False,
}
"""A CPU Trainer that prints and writes nothing."""


class SaveAt(L.Callback):
    """Saves a checkpoint after one step."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def waiting(mode: str) -> None:
    """Say what happens where the host waits for a CUDA device: "error" or "default", which is nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that this is a prototype
        torch.cuda.set_sync_debug_mode(mode)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return out


class Watch(L.Callback):
    """Writes down what each step computed, and saves a checkpoint where asked."""

    def __init__(self, save_at: int = -1, path: Path | None = None) -> None:
        self.losses: list[float] = []
        self.dtypes: set[torch.dtype] = set()
        self.matmul: set[str] = set()
        self.save_at, self.path = save_at, path

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.backbone.conv2.register_forward_hook(self._see)

    def _see(self, layer: Any, images: Any, features: Tensor) -> None:
        self.dtypes.add(features.dtype)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())
        self.matmul.add(torch.get_float32_matmul_precision())
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(self.path)


def fit_digits(
    callbacks: list[L.Callback], checkpoint: Path | None = None, precision: Any = "32-true", **arguments: Any
) -> ArcFaceModule:
    """Train on the digits, 14 steps in two epochs."""
    L.seed_everything(3, verbose=False)
    module = ArcFaceModule(
        FastCNN(16, width=4), ArcFaceHead(16, 10), lambda params: torch.optim.Adam(params, 1e-2), **arguments
    )
    data = MNISTDataModule(dataset="digits", batch_size=200, eval_batch_size=1000, augment=False)
    trainer = L.Trainer(**QUIET, max_epochs=2, precision=precision, callbacks=callbacks)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return module


def save_model(module: ArcFaceModule, path: str | Path, **facts: Any) -> Path:
    """Write a module as a checkpoint, as far as use looks at it; ``facts`` are those about its data."""
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "data": facts}, path)
    return Path(path)


DIGITS_FACTS: dict[str, Any] = {
    "name": "MNISTDataModule",
    "kwargs": {"dataset": "digits"},
    "dataset_name": "digits",
    "seed": 0,
    "class_names": [str(digit) for digit in range(10)],
}
"""What the checkpoint of a run on the digits holds about them."""


def assert_the_same(one: ArcFaceModule, other: ArcFaceModule) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, weights in one.state_dict().items():
        assert torch.equal(weights, other.state_dict()[name]), name


TINY_FIT = [
    "--data.dataset",
    "digits",
    "--accelerator",
    "cpu",
    "--model.backbone",
    "FastCNN",
    "--trainer.logger",
    "CSVLogger",
]
TINY_FIT += ["--limit_train_batches", "2", "--limit_val_batches", "1", "--limit_test_batches", "1", "--max_epochs", "2"]
"""Flags of a fit of two steps per epoch, without figures."""

NO_FIGURES = ["--trainer.logger", "CSVLogger"]
"""Flags of a fit that shows nothing in TensorBoard: its figures take longer than a short training."""
SMALL_NETWORK = ["--model.backbone", "FastCNN", "--model.backbone.width", "4"]

LIGHTNING_CALLBACKS: dict[str, dict[str, str]] = {
    "Callback": {},
    "Checkpoint": {},
    "DeviceStatsMonitor": {},
    "EMAWeightAveraging": {},
    "EarlyStopping": {"monitor": "val/loss"},
    "GradientAccumulationScheduler": {"scheduling": "{0: 1, 1: 2}"},
    "LambdaCallback": {},
    "LearningRateMonitor": {"log_momentum": "true"},
    "ModelCheckpoint": {"save_last": "true", "monitor": "val/accuracy", "mode": "max"},
    "ModelSummary": {"max_depth": "2"},
    "OnExceptionCheckpoint": {"dirpath": "broken"},
    "ProgressBar": {},
    "RichModelSummary": {},
    "RichProgressBar": {},
    "StochasticWeightAveraging": {"swa_lrs": "0.01", "swa_epoch_start": "1"},  # a share means another epoch later
    "TQDMProgressBar": {},
    "ThroughputMonitor": {"batch_size_fn": "operator.length_hint"},
    "Timer": {"duration": "00:00:10:00"},
    "WeightAveraging": {},
}
"""Callbacks of Lightning that work, and the arguments they are tried with."""


def callback_flags(name: str, arguments: dict[str, str]) -> list[str]:
    """Return flags that add a callback of Lightning."""
    path = f"lightning.pytorch.callbacks.{name}"
    return [f"--trainer.callbacks+={path}", *(f"--trainer.callbacks.{key}={text}" for key, text in arguments.items())]
