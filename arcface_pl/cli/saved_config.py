"""The config.yaml of a run: its first line, and when it is written."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback

from arcface_pl.callbacks.run.run_folder import RunFolder, run_folder
from arcface_pl.callbacks.tensorboard.writer import log_settings, writer_of
from arcface_pl.checkpoints.atomic import replacing
from arcface_pl.cli.config import COMPLETE


def first_line(run_id: str) -> str:
    """Return the first line of a run's config.yaml, which marks it as this run's."""
    return f"{COMPLETE}run {run_id}\n"


def flat(settings: Any, place: str = "") -> dict[str, Any]:
    """Return nested settings as one table by full name, without class_path and init_args."""
    if isinstance(settings, Mapping):
        found: dict[str, Any] = {}
        for name, value in settings.items():
            found |= flat(value, place if name in ("class_path", "init_args") else f"{place}.{name}".lstrip("."))
        return found
    if isinstance(settings, list) and any(isinstance(each, Mapping) for each in settings):
        found = {}
        for each in settings:
            found |= flat(each, f"{place}.{each['class_path'].rpartition('.')[2]}" if "class_path" in each else place)
        return found
    return {place: settings}


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml into the run folder once training starts: a checkpoint may still refuse the settings."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Do nothing yet."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file, atomically: a resumed run replaces that of the run it resumes."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            text = first_line(RunFolder.of(trainer).run_id)
            text += self.parser.dump(self.config, format="arcface_pl", skip_unset=False)
            with replacing(folder / self.config_filename) as file:
                file.write(text.encode())
            writer = writer_of(trainer)
            if writer is not None:
                writer.add_text("config.yaml", f"```yaml\n{text}```")
            settings = {name: value for name, value in self.config.as_dict().items() if name != "config"}
            log_settings(trainer, flat(settings))
