"""The benchmark of two checkouts: both are measured, and their results are compared."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks"


@pytest.fixture
def before_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield import_module("before_after")
    for name in ("before_after", "head", "prompt"):
        sys.modules.pop(name)


def test_the_difference_is_the_largest_relative_distance(before_after: ModuleType) -> None:
    one, other = [torch.tensor([3, 4]), torch.tensor([1.0])], [torch.tensor([3, 4]), torch.tensor([0.5])]
    assert before_after.difference(one, one) == 0
    assert before_after.difference(one, other) == 1
    assert before_after.difference(one[:1], other) == float("inf")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_two_checkouts_are_measured(before_after: ModuleType, capsys: pytest.CaptureFixture) -> None:
    flags = ["--before", str(FOLDER.parents[1]), "--rounds", "1", "--size", "0.001"]
    before_after.main([*flags, "--measures", "checkpoint", "split"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["checkpoint", "", "", "", "split"]
    assert all(float(cell) >= 0 for row in rows for cell in row[2:4])
    assert [row[5] for row in rows if row[0]] == ["0", "0"]
