"""Where TensorBoard callbacks draw, and the names they use."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from arcface_pl.callbacks.run.run_metrics import RunMetrics
from arcface_pl.data import ImageDataModule
from arcface_pl.data.protocol import fact
from arcface_pl.errors import printable
from arcface_pl.figures.style import to_pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter


_WAITING: WeakKeyDictionary[L.Trainer, list[Callable[[], None]]] = WeakKeyDictionary()


@contextmanager
def figures_last(trainer: L.Trainer) -> Iterator[Callable[[], None]]:
    """Have `draw_at_end` wait: figures take seconds, and results need not.

    Yields:
        Draws what waits. The end of the body, also by an exception, does the same.
    """
    waiting = _WAITING[trainer] = []

    def draw() -> None:
        while waiting:
            waiting.pop(0)()
            if not waiting and (writer := writer_of(trainer)) is not None:
                writer.close()  # as Lightning does at the end of a stage, which was before

    try:
        yield draw
    finally:
        del _WAITING[trainer]
        draw()


def draw_at_end(trainer: L.Trainer, draw: Callable[[], None]) -> None:
    """Draw once training or a test is over: now, or when `figures_last` lets it."""
    if trainer in _WAITING:
        _WAITING[trainer].append(draw)
    else:
        draw()


def tensorboard_of(trainer: L.Trainer) -> TensorBoardLogger | None:
    """Return the Trainer's first TensorBoard logger (the same on every rank), or None."""
    return next((logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def writer_of(trainer: L.Trainer) -> "SummaryWriter | None":
    """Return the TensorBoard writer, or None without a TensorBoard logger and on every rank but 0."""
    logger = tensorboard_of(trainer)
    return logger.experiment if logger is not None and trainer.is_global_zero else None


def shows_figures(trainer: L.Trainer) -> bool:
    """Return whether any logger can show pictures (the same on every rank)."""
    return any(map(_image_method, trainer.loggers))


def add_figure(trainer: L.Trainer, tag: str, figure: "Figure", step: int) -> None:
    """Show a figure in every logger that can show pictures, on rank 0."""
    if not trainer.is_global_zero or not shows_figures(trainer):
        return
    pixels = to_pixels(figure)
    for logger in trainer.loggers:
        method = _image_method(logger)
        made: Any = getattr(logger, "experiment", None)
        if method == "tensorboard":
            made.add_image(tag, pixels, step, dataformats="HWC")
        elif method == "wandb":
            logger.log_image(tag, [pixels], step=step)  # type: ignore[attr-defined]
        elif method == "mlflow":
            made.log_image(getattr(logger, "run_id", None), pixels, artifact_file=f"{tag}_{step}.png")


def _image_method(logger: Any) -> str:
    """Return how a logger takes pictures; known by its methods, since it may not be installed; "" if it takes none."""
    if isinstance(logger, TensorBoardLogger):
        return "tensorboard"
    if callable(getattr(logger, "log_image", None)):
        return "wandb"
    return "mlflow" if any(cls.__name__ == "MLFlowLogger" for cls in type(logger).__mro__) else ""


def log_settings(trainer: L.Trainer, settings: dict[str, Any]) -> None:
    """Give settings as one flat table to every logger but TensorBoard, which gets them with the final scores.

    Lightning logs the arguments of a data module of the user's, before this at every start of a stage.
    """
    data = datamodule_of(trainer)
    given = {} if isinstance(data, ImageDataModule) else dict(getattr(data, "hparams", {}))
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, TensorBoardLogger):
            continue
        fixed = _image_method(logger) == "mlflow"  # a value cannot be replaced there
        logger.log_hyperparams({name: value for name, value in settings.items() if not (fixed and name in given)})


def log_scores(trainer: L.Trainer, scores: dict[str, float]) -> None:
    """Give final scores to every logger but TensorBoard, which gets them with the settings, and metrics.csv."""
    for logger in trainer.loggers if trainer.is_global_zero and scores else ():
        if not isinstance(logger, TensorBoardLogger | RunMetrics):
            logger.log_metrics(scores, step=trainer.global_step)


def datamodule_of(trainer: L.Trainer | None) -> Any:
    """Return the Trainer's data module, or None where it was given bare loaders, or where there is no Trainer."""
    return getattr(trainer, "datamodule", None)


def class_names_of(trainer: L.Trainer, num_classes: int) -> list[str]:
    """Return the names of all classes; a class that the data module does not name is called by its number.

    Control characters are escaped: the projector's table has a line per image, and tabs between columns.
    """
    names = fact(datamodule_of(trainer), "class_names")
    named = [printable(name) for name in names[:num_classes]] if isinstance(names, list | tuple) else []
    return named + [str(label) for label in range(len(named), num_classes)]


def split_name(trainer: L.Trainer | None) -> str:
    """Return "test" in a test or where validation uses the test set, otherwise "val"."""
    testing = trainer is not None and trainer.testing
    return "test" if testing else getattr(datamodule_of(trainer), "val_prefix", "val")
