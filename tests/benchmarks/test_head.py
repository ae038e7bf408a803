"""The benchmark of heads: every way that was measured is drawn."""

from importlib import import_module
from pathlib import Path

import pytest
from matplotlib.figure import Figure

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks"


def test_every_way_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    head, drawn = import_module("head"), list[Figure]()
    monkeypatch.setattr("arcface_pl.figures.style.save", lambda figure, path, dpi: drawn.append(figure))
    ways = list(head.WAYS)
    rows = [
        {"dim": 64, "classes": classes, "way": way, "seconds": 1.0 + number, "extra_mb": 1.0}
        for number, way in enumerate(ways)
        for classes in (10, 100)
    ]
    head.plot(rows, tmp_path / "drawn.png")
    assert [line.get_label() for line in drawn[0].axes[0].lines] == [head.WAYS[way][0] for way in ways]
