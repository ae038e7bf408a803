"""``inspect``: its table on the console, and the CSV, JSON and contact sheets it writes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from arcface_pl.checkpoints.results import check_result
from arcface_pl.cli.parser import cell
from arcface_pl.cli.result_files import write_csv_result, write_json_result
from arcface_pl.errors import SettingsError
from arcface_pl.evaluation.audit import AuditedImages
from arcface_pl.evaluation.label_noise import LabelAngles, Twins
from arcface_pl.figures.contact_sheet import draw_contact_sheet
from arcface_pl.figures.style import SOFTWARE, save, shorten

COLUMNS = ("rank", "path", "split", "label", "looks_like", "angle", "nearest_other_angle", "score", "dominant_center")
SHARED_COLUMNS = ("path", "split", "label", "other_path", "other_split", "other_label", "similarity")
_DEGREE = "\N{DEGREE SIGN}"


@dataclass(frozen=True)
class Findings:
    """What is known of the labels of a set of images.

    Attributes:
        audited: The images.
        angles: Angles of each to its own class and to the nearest other.
        twins: The most similar image of another class.
        class_names: Names of the classes, in label order.
    """

    audited: AuditedImages
    angles: LabelAngles
    twins: Twins
    class_names: list[str]

    @property
    def num_suspects(self) -> int:
        """Number of images nearer to another class than to their own."""
        return int((self.angles.score > 0).sum())

    @cached_property
    def rows(self) -> list[tuple[Any, ...]]:
        """Return the values of `COLUMNS` for every image, the most suspicious first; None if unknown."""
        known = list(zip(*(each.tolist() for each in (*self.angles, self.angles.score)), strict=True))
        rows = []
        for rank, place in enumerate(self.angles.ranked().tolist(), start=1):
            target, other, nearest, dominant, score = known[place]
            angles = (_rounded(target), _rounded(other), _rounded(score))
            rows.append((rank, *self._image(place), self.class_names[nearest], *angles, dominant))
        return rows

    @cached_property
    def pairs(self) -> list[tuple[int, int, float]]:
        """Images of two classes that are alike, the most similar first; see `Twins.pairs`."""
        return self.twins.pairs()

    def shared_rows(self) -> list[tuple[Any, ...]]:
        """Return the values of `SHARED_COLUMNS` for every pair, the most similar first."""
        return [(*self._image(first), *self._image(second), round(value, 4)) for first, second, value in self.pairs]

    def _image(self, place: int) -> tuple[str, str, str]:
        audited = self.audited
        return audited.paths[place], audited.splits[place], self.class_names[audited.labels[place]]


def _rounded(degrees: float) -> float | None:
    return None if math.isnan(degrees) else round(degrees, 3)


def check_places(folder: Path) -> None:
    """Refuse a folder in which a file of the user's would be replaced.

    Raises:
        SettingsError: Names the file.
    """
    marks = {"labels.csv": ",".join(COLUMNS).encode(), "shared.csv": ",".join(SHARED_COLUMNS).encode()}
    marks |= {"labels.png": SOFTWARE, "shared.png": SOFTWARE}
    for name in ("labels.json", *marks):
        check_result("--output", folder / name, *([marks[name]] if name in marks else []))


def print_findings(found: Findings, facts: dict[str, Any], most: int) -> None:
    """Print how many labels look wrong, and the most suspicious images as a table."""
    console = Console(emoji=False)
    count, shared = len(found.audited.labels), len(found.pairs)
    table = Table(title=f"the most suspicious of {count:,} images", title_justify="left")
    for name in ("image", "label", "looks like"):
        table.add_column(name, overflow="fold")
    for name in ("own class", "other class", "score"):
        table.add_column(name, justify="right")
    for _, path, split, label, looks_like, *angles, _ in found.rows[:most]:
        name = f"{split} {path}" if path.isdecimal() else path
        shown = ("" if each is None else f"{each:.1f}{_DEGREE}" for each in angles)
        table.add_row(cell(name), cell(label), cell(looks_like), *shown)
    console.print(table)
    console.print(f"{found.num_suspects:,} images are nearer to another class than to their own (score above 0)")
    console.print(f"{shared:,} pairs of images are shared by two classes")
    if "not_measured" in facts:
        console.print(f"not measured: {facts['not_measured']}")
    if not facts["folds"] and "train" in found.audited.loaders:
        console.print("The network has trained on the training images: wrong labels that it has learned are not found.")
        console.print("--folds 2 trains two networks, and judges each image by the one that has not seen it.")


def write(found: Findings, facts: dict[str, Any], folder: Path, num_shown: int) -> None:
    """Write all files and print the folder.

    Args:
        found: The findings.
        facts: How they were obtained, for the JSON.
        folder: Where to; files of an earlier inspection are replaced.
        num_shown: Images on each contact sheet.

    Raises:
        SettingsError: If a file cannot be written.
    """
    rows, shared = found.rows, found.shared_rows()
    where = {"option": "--output"}
    try:
        for sheet in ("labels.png", "shared.png"):  # of an earlier inspection: `check_places` has seen to that
            (folder / sheet).unlink(missing_ok=True)
        write_csv_result(folder / "labels.csv", COLUMNS, rows, **where)
        write_csv_result(folder / "shared.csv", SHARED_COLUMNS, shared, **where)
        results = {
            **facts,
            "num_images": len(rows),
            "num_suspects": found.num_suspects,
            "images": [dict(zip(COLUMNS, row, strict=True)) for row in rows],
            "shared": [dict(zip(SHARED_COLUMNS, row, strict=True)) for row in shared],
        }
        write_json_result(folder / "labels.json", results, **where)
        if num_shown:
            _draw(found, folder, num_shown)
    except OSError as error:
        raise SettingsError(f"--output {folder}: cannot be written ({error.strerror})") from error
    Console(emoji=False).print(f"every image in {cell(folder / 'labels.csv')}", soft_wrap=True)


def _draw(found: Findings, folder: Path, most: int) -> None:
    places = found.angles.ranked()[:most].tolist()
    short = partial(shorten, among=found.class_names)
    captions = [
        f"{short(label)},\nlike {short(other)}\n{'' if score is None else f'score {score:.0f}{_DEGREE}'}"
        for _, _, _, label, other, _, _, score, _ in found.rows[: len(places)]
    ]
    title = f"The {len(places)} most suspicious labels of {len(found.audited.labels):,}"
    _save(found, places, captions, title, folder / "labels.png")
    pairs = found.pairs[: most // 2]
    if pairs:
        places = [place for first, second, _ in pairs for place in (first, second)]
        names = [short(found.class_names[found.audited.labels[place]]) for place in places]
        captions = [f"{name}\npair {i // 2 + 1}, {pairs[i // 2][2]:.3f}" for i, name in enumerate(names)]
        title = f"{len(pairs)} of {len(found.pairs):,} pairs of images that two classes share"
        _save(found, places, captions, title, folder / "shared.png")


def _save(found: Findings, places: Iterable[int], captions: list[str], title: str, path: Path) -> None:
    save(draw_contact_sheet(found.audited.images(places), captions, title), path)
