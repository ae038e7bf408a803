"""The benchmark from prompt to prompt: the parts of a training add up, and a mistake is a row like any other."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks"


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield import_module("prompt")
    sys.modules.pop("prompt")


def test_the_parts_of_a_training_add_up_to_its_seconds(prompt: ModuleType) -> None:
    lines = [
        (2.0, "\u256d\u2500 arcface-pl fit \u2500"),
        (5.0, "  1/1   1.2392     99.35%"),
        (6.5, "trained in 4.7 s; numbers in"),
    ]
    parts = prompt.parts_of(prompt.Run(7.25, 0.0, lines))
    assert list(parts.values()) == [2.0, 3.0, 1.5, 0.75]
    assert prompt.parts_of(prompt.Run(7.25, 0.0, lines[:1])) == {}


def test_a_mistake_is_timed_and_a_fault_is_not(prompt: ModuleType) -> None:
    found = prompt.timed(["-c", prompt.PROGRAM, "fit", "--wrong", "1"])
    assert "--wrong: unknown" in found.lines[-1][1]
    assert found.wall >= found.lines[-1][0] > 0
    assert found.cpu > 0
    with pytest.raises(RuntimeError, match="KeyError"):
        prompt.timed(["-c", "{}[1]"])


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_every_command_is_measured(
    prompt: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    prompt.main(["--rounds", "1", "--fast_dataset", "digits"])
    rows = capsys.readouterr().out.splitlines()[2:]
    commands = [row.split("`")[1] for row in rows if "`" in row]
    assert commands == list(prompt.commands(Path(), "digits"))
    assert len(rows) == len(commands) + 2 * (1 + len(prompt.PARTS))
