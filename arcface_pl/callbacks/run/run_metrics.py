"""What a run always leaves, whatever its loggers: metrics.csv and curves.png in its folder."""

import csv
import io
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from arcface_pl.checkpoints.atomic import replacing
from arcface_pl.checkpoints.results import writing_result
from arcface_pl.errors import FileError, csv_value

FILE = "metrics.csv"
SECONDS = 10  # between two writes of the whole file
_FIRST = ["epoch", "step"]


class RunMetrics(Logger):
    """Writes everything that is logged into metrics.csv, one row per step, and draws curves.png at the end.

    A resumed run continues the file: rows of steps that are logged again are replaced.

    Attributes:
        folder: The run's folder; None before `begin`, and in processes other than the first, which write nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder: Path | None = None
        self.rows: list[dict[str, float]] = []
        self._resumed = False
        self._written = time.monotonic()

    def begin(self, folder: Path) -> None:
        """Write into a run's folder from now on."""
        self.folder, self.rows = folder, _read(folder / FILE)
        self._resumed = bool(self.rows)

    @property
    def save_dir(self) -> str | None:
        """Parent of ``name``: together they are the run's folder, where Lightning's ModelCheckpoint writes too."""
        return None if self.folder is None else str(self.folder.parent.parent)

    @property
    def name(self) -> str:
        """Name of the folder of runs."""
        return "" if self.folder is None else self.folder.parent.name

    @property
    def version(self) -> str:
        """Name of the run's folder."""
        return "" if self.folder is None else self.folder.name

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml has the settings."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a row, or add to the row of the same step."""
        step = 0 if step is None else step
        if self._resumed:
            self.rows, self._resumed = [row for row in self.rows if row["step"] < step], False
        if not self.rows or self.rows[-1]["step"] != step:
            self.rows.append({"step": step})
        self.rows[-1].update({csv_value(name): value for name, value in metrics.items()})
        if time.monotonic() - self._written > SECONDS:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        if self.folder is None or not self.rows:
            return
        columns = _FIRST + sorted({name for row in self.rows for name in row} - set(_FIRST))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        with replacing(self.folder / FILE) as file:
            file.write(text.getvalue().encode())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the file; of a run that ended early the curves too."""
        self._write()
        if status != "success":
            with suppress(OSError, FileError):
                self.draw()

    def draw(self) -> Path | None:
        """Draw curves.png from all rows; returns its path, or None where there is nothing to draw."""
        from arcface_pl.figures.curves import draw_curves  # matplotlib is imported when something is drawn
        from arcface_pl.figures.style import SOFTWARE

        figure = draw_curves(self.rows)
        if self.folder is None or figure is None:
            return None
        with writing_result(self.folder / "curves.png", SOFTWARE, replace=True) as (file, path):
            figure.savefig(file, dpi=100, format="png", metadata={"Software": "arcface_pl"})
        return path


def _read(path: Path) -> list[dict[str, float]]:
    """Read the rows of a run that is resumed; none if there is no such file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{name: _number(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
    except (OSError, ValueError, UnicodeDecodeError):
        return []


def _number(text: str) -> float:
    return int(text) if text.isdecimal() else float(text)
