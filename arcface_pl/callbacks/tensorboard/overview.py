"""TensorBoard's Custom Scalars tab: training and validation in one chart."""

import lightning as L

from arcface_pl.callbacks.tensorboard.writer import split_name, writer_of


class Overview(L.Callback):
    """Lays out the Custom Scalars tab when training starts: loss, both accuracies and angles, two curves per chart.

    Draws only into a TensorBoard logger.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the layout."""
        writer = writer_of(trainer)
        if writer is None:
            return
        split = split_name(trainer)
        charts = {
            "loss": ("train/epoch_loss", f"{split}/loss"),
            "accuracy": ("train/accuracy", f"{split}/accuracy"),
            "accuracy with the margin left on": ("train/margin_accuracy", f"{split}/margin_accuracy"),
            "mean angle": (f"{split}/angle/target_mean", f"{split}/angle/nearest_other_mean"),
        }
        lines = {title: ["Multiline", [f"^{tag}$" for tag in tags]] for title, tags in charts.items()}
        writer.add_custom_scalars({"training and validation": lines})
