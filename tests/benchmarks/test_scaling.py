"""The benchmark of growth: its slopes, and every quantity on small sizes."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks"


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield import_module("scaling")
    sys.modules.pop("scaling")


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_slope_is_the_exponent(scaling: ModuleType, power: float) -> None:
    assert scaling.slope((10, 3 * 10**power), (40, 3 * 40**power)) == pytest.approx(power)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:no two validation images")
def test_every_quantity_is_measured(scaling: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    scaling.main(["--largest", "100", "--budget", "1000", "--figure", str(tmp_path / "growth.png")])
    printed = capsys.readouterr().out
    for name in scaling.SIZES:
        assert f"| {name} |" in printed
    assert printed.count("loss and gradients") == 2
    with Image.open(tmp_path / "growth.png") as picture:
        assert picture.width > picture.height
