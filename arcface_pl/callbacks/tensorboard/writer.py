"""Where TensorBoard callbacks draw, and the names they use."""

from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from arcface_pl.data.protocol import fact
from arcface_pl.figures.style import to_pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter


def tensorboard_of(trainer: L.Trainer) -> TensorBoardLogger | None:
    """Return the Trainer's first TensorBoard logger (the same on every rank), or None."""
    return next((logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def writer_of(trainer: L.Trainer) -> "SummaryWriter | None":
    """Return the TensorBoard writer, or None without a TensorBoard logger and on every rank but 0."""
    logger = tensorboard_of(trainer)
    return logger.experiment if logger is not None and trainer.is_global_zero else None


def add_figure(trainer: L.Trainer, tag: str, figure: "Figure", step: int) -> None:
    """Show a figure in TensorBoard's Images tab, on rank 0."""
    writer = writer_of(trainer)
    if writer is not None:
        writer.add_image(tag, to_pixels(figure), step, dataformats="HWC")


def datamodule_of(trainer: L.Trainer) -> Any:
    """Return the Trainer's data module, or None where it was given bare loaders."""
    return getattr(trainer, "datamodule", None)


def class_names_of(trainer: L.Trainer, num_classes: int) -> list[str]:
    """Return the names of all classes; a class that the data module does not name is called by its number."""
    names = fact(datamodule_of(trainer), "class_names")
    named = [str(name) for name in names[:num_classes]] if isinstance(names, list | tuple) else []
    return named + [str(label) for label in range(len(named), num_classes)]


def split_name(trainer: L.Trainer) -> str:
    """Return "test" in a test or where validation uses the test set, otherwise "val"."""
    return "test" if trainer.testing else getattr(datamodule_of(trainer), "val_prefix", "val")
