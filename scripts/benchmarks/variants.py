"""The variants that `training.py` compares: each trains in this process and prints its measurements as JSON."""

import cProfile
import json
import logging
import os
import pstats
import resource
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import torch
from baseline import OriginalCNN, OriginalLoss, OriginalModule, original_loader
from torch import nn
from watch import Watch, WatchSteps, honest

from arcface_pl.cli.config import BASE_CONFIG, read_config
from arcface_pl.cli.layers import merge
from arcface_pl.cli.machine import choose_precision, keep_freed_memory, stop_driver_search
from arcface_pl.cli.settings import ArcFaceCLI

__all__ = ["CONTENDERS", "Task"]


@dataclass
class Task:
    """What a contender is to do."""

    contender: str
    data_dir: str
    threads: int
    num_images: int = 60_000
    epochs: int = 1
    batch_size: int = 64
    seed: int = 0
    looks: int = 0
    """How often an epoch the test set is looked at, with the clock stopped."""
    profile: bool = False
    accelerator: str = "cpu"


def original_loop(task: Task) -> Watch:
    """Train as the original program does: one PIL image at a time through a DataLoader, in a plain loop."""
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)  # set by Lightning, which this loop would not import
    loader = original_loader(task.data_dir, task.num_images)
    network, loss_function = OriginalCNN(), OriginalLoss()
    optimizer = torch.optim.Adam([*network.parameters(), *loss_function.parameters()], lr=0.001)
    watch = Watch(len(loader), task.looks, honest(task.data_dir, network, lambda: loss_function.weight.T, (0.0, 1.0)))
    for _ in range(task.epochs):
        watch.start()
        for batch, labels in loader:
            optimizer.zero_grad()
            loss_function(network(batch), labels).backward()
            optimizer.step()
            watch.step()
    return watch


def original_trainer(task: Task) -> Watch:
    """Train the same in Lightning with its stock DataLoader and defaults."""
    loader, module = original_loader(task.data_dir, task.num_images), OriginalModule()
    accuracy = honest(task.data_dir, module.network, lambda: module.loss_function.weight.T, (0.0, 1.0))
    watch = Watch(len(loader), task.looks, accuracy)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=task.epochs, callbacks=[WatchSteps(watch)], enable_checkpointing=False
    )
    trainer.fit(module, loader)
    return watch


def same_network(task: Task, precision: str = "32-true") -> Any:
    """Build this project's Trainer, module and data with the original network, optimizer and rate."""
    settings = merge(read_config(BASE_CONFIG), read_config("source"))
    settings["data"]["init_args"] |= {"watch_test": False, "batch_size": task.batch_size}
    settings["model"]["head"]["init_args"]["extension"] = "monotone"
    settings["model"]["optimizer"]["init_args"]["fused"] = True
    settings["trainer"]["precision"] = precision
    for callback in settings["trainer"]["callbacks"]:
        if callback["class_path"] == "arcface_pl.callbacks.TrainingAccuracy":
            callback["init_args"]["num_images"] = 1000  # not all 60,000, with the clock stopped
    return build(task, settings)


def recipe(name: str) -> Callable[[Task], Any]:
    """Return what builds Trainer, module and data from a config beside scripts/fit.py."""
    return lambda task: build(task, merge(read_config(BASE_CONFIG), read_config(name)))


def build(task: Task, settings: dict[str, Any]) -> Any:
    """Fit a config to the task: number of images and epochs, no files but TensorBoard's."""
    data, trainer = settings["data"]["init_args"], settings["trainer"]
    data |= {"data_dir": task.data_dir, "dataset": "mnist", "val_fraction": 0.0}
    precision = choose_precision(task.accelerator) if trainer["precision"] == "auto" else trainer["precision"]
    settings["seed_everything"] = task.seed
    trainer |= {
        "accelerator": task.accelerator,
        "precision": precision,
        "enable_checkpointing": False,
        "max_epochs": task.epochs,
    }
    if task.num_images < Task.num_images:
        trainer["limit_train_batches"] = -(-task.num_images // data["batch_size"])
    trainer["default_root_dir"] = task.data_dir
    trainer["logger"]["init_args"]["log_graph"] = False
    return ArcFaceCLI(settings)


def under_trainer(make: Callable[[Task], Any]) -> Callable[[Task], Watch]:
    """Return a contender that trains with this project's Trainer, bar, logger and callbacks as scripts/fit.py does."""

    def contender(task: Task) -> Watch:
        keep_freed_memory()
        stop_driver_search()
        cli = make(task)
        (mean,), (std,) = cli.datamodule.normalization
        device = cli.trainer.strategy.root_device.type
        autocast = torch.autocast(device, torch.bfloat16, enabled=str(cli.trainer.precision) == "bf16-mixed")
        accuracy = honest(task.data_dir, cli.model, lambda: cli.model.head.weight, (mean, std))

        def in_its_precision() -> float:
            with autocast:
                return accuracy()

        watch = Watch(-(-task.num_images // cli.datamodule.batch_size), task.looks, in_its_precision)
        cli.trainer.callbacks.append(WatchSteps(watch))
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        return watch

    return contender


def bare_loop(task: Task) -> Watch:
    """Train on this project's batches, module and optimizer without a Trainer."""
    keep_freed_memory()
    stop_driver_search()
    cli = same_network(task)
    module, data = cli.model, cli.datamodule
    data.trainer = None
    data.prepare_data()
    data.setup("fit")
    module.head.check_labels = False
    module.lr_schedule = None
    loader, optimizer = data.train_dataloader(), module.configure_optimizers()
    watch = Watch(-(-task.num_images // data.batch_size), 0, lambda: 0.0)
    for epoch in range(task.epochs):
        loader.set_epoch(epoch)
        watch.start()
        for images, labels in loader:
            optimizer.zero_grad()
            module.head.loss(module(images), labels).backward()
            optimizer.step()
            watch.step()
            if watch.steps == (epoch + 1) * watch.steps_an_epoch:
                break
    return watch


def floor(make: Callable[[Task], Any]) -> Callable[[Task], Watch]:
    """Return a contender that does nothing but the convolutions and matrix products of a network's training steps.

    Each layer runs forward and backward on its own, on noise of the shapes, the dtype and the memory format that it has
    in training. Nothing that trains this network, by these kernels and at this batch size, can be faster.
    """

    def contender(task: Task) -> Watch:
        keep_freed_memory()
        cli = make(task)
        dtype = torch.bfloat16 if str(cli.trainer.precision) == "bf16-mixed" else torch.float32
        network = cli.model.backbone.to(dtype)
        images = torch.randn(task.batch_size, 1, 28, 28, dtype=dtype).contiguous(memory_format=torch.channels_last)
        layers: list[tuple[nn.Module, list[torch.Tensor], torch.Tensor]] = []

        def note(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            needed = inputs[0].detach().requires_grad_(inputs[0] is not images)
            layers.append((layer, [needed, *layer.parameters()], torch.randn_like(output)))

        weighted = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        handles = [layer.register_forward_hook(note) for layer in weighted]
        network(images)
        for handle in handles:
            handle.remove()
        watch = Watch(-(-task.num_images // task.batch_size), 0, lambda: 0.0)
        for number in range(-5, watch.steps_an_epoch):  # the first five choose kernels
            watch.start()
            for layer, (given, *weights), grad in layers:
                torch.autograd.grad(layer(given), [given, *weights] if given.requires_grad else weights, grad)
            if number >= 0:
                watch.step()
        return watch

    return contender


CONTENDERS: dict[str, Callable[[Task], Watch]] = {
    "original": original_loop,
    "lightning": original_trainer,
    "same network": under_trainer(same_network),
    "same network, own precision": under_trainer(lambda task: same_network(task, choose_precision("cpu"))),
    "fast": under_trainer(recipe("fast")),
    "accurate": under_trainer(recipe("accurate")),
    "bare loop": bare_loop,
    "floor": floor(same_network),
    "floor, own precision": floor(lambda task: same_network(task, choose_precision("cpu"))),
    "floor of fast": floor(recipe("fast")),
}


def main(task: Task) -> None:
    """Do the task, and say what was seen."""
    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    profiler = cProfile.Profile()
    if task.profile:
        profiler.enable()
    watch = CONTENDERS[task.contender](task)
    profiler.disable()
    if task.profile:
        pstats.Stats(profiler, stream=sys.stdout).sort_stats("tottime").print_stats(30)
    images = watch.steps / watch.steps_an_epoch * task.num_images
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024) / 1000
    seen = {"seconds": watch.seconds, "images": images, "steps": watch.steps, "peak_gb": peak, "curve": watch.curve}
    print("\n" + json.dumps({"task": asdict(task), **seen}), flush=True)


if __name__ == "__main__":
    for given in json.loads(sys.argv[1]):
        main(Task(**given))
