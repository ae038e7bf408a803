"""What the pictures share: where to draw, and under which name."""

from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from arcface_pl.figures.style import to_pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["add_figure", "class_names_of", "datamodule_of", "split_name", "tensorboard_of", "writer_of"]


def tensorboard_of(trainer: L.Trainer) -> TensorBoardLogger | None:
    """Return the Trainer's first TensorBoard logger, alike in every process, or None where it has none."""
    return next((logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def writer_of(trainer: L.Trainer) -> "SummaryWriter | None":
    """Return what draws into TensorBoard, or None without a TensorBoard logger and in every process but the first."""
    logger = tensorboard_of(trainer)
    return logger.experiment if logger is not None and trainer.is_global_zero else None


def add_figure(trainer: L.Trainer, tag: str, figure: "Figure", step: int) -> None:
    """Show a figure in TensorBoard's Images tab, in the first process."""
    writer = writer_of(trainer)
    if writer is not None:
        writer.add_image(tag, to_pixels(figure), step, dataformats="HWC")


def datamodule_of(trainer: L.Trainer) -> Any:
    """Return the Trainer's data module, or None where it was given bare loaders."""
    return getattr(trainer, "datamodule", None)


def class_names_of(trainer: L.Trainer, num_classes: int) -> list[str]:
    """Return the classes' names, or their numbers where the data has none."""
    return getattr(datamodule_of(trainer), "class_names", None) or [str(label) for label in range(num_classes)]


def split_name(trainer: L.Trainer) -> str:
    """Return "test" in a test or where validation looks at the test set, else "val"."""
    return "test" if trainer.testing else getattr(datamodule_of(trainer), "val_prefix", "val")
