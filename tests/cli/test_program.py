"""Commands that are printed work where they are printed: after the console command, ``python -m`` and scripts/."""

import os
import sys
from pathlib import Path

import pytest

from arcface_pl.cli import main
from arcface_pl.cli.program import as_typed, program, word

SCRIPTS = Path(__file__).parents[2] / "scripts"
TEXT = "look for wrong labels (arcface-pl inspect), or 'arcface-pl predict best'; arcface-plus is another"


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is alone on the path; it holds python3, and not python."""
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "python3").symlink_to(sys.executable)
    return tmp_path


def installed(folder: Path) -> Path:
    path = folder / "arcface-pl"
    path.touch(0o755)
    return path


@pytest.mark.skipif(os.name == "nt", reason="programs are found by their suffix there")
@pytest.mark.parametrize(
    ("typed", "has_command", "says"),
    [
        (["python3", "-m", "arcface_pl"], False, ["python3 -m arcface_pl inspect", "python3 -m arcface_pl predict"]),
        (["python3", "-m", "arcface_pl"], True, ["python3 -m arcface_pl inspect", "python3 -m arcface_pl predict"]),
        (["python3", "scripts/fit.py"], False, ["python3 -m arcface_pl inspect", "python3 scripts/predict.py"]),
        (["python3", "scripts/fit.py"], True, ["arcface-pl inspect", "arcface-pl predict"]),
        (["../my venv/python", "scripts/fit.py"], False, ["'../my venv/python' -m arcface_pl inspect"]),
        (["python3", "arcface-pl"], True, ["arcface-pl inspect", "arcface-pl predict"]),
        (["python3", "venv/bin/arcface-pl"], False, ["venv/bin/arcface-pl inspect", "venv/bin/arcface-pl predict"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_command_is_said_in_the_way_that_works(
    typed: list[str], has_command: bool, says: list[str], on_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(SCRIPTS.parent)
    if has_command:
        installed(on_path)
    program_file = "/x/arcface_pl/__main__.py" if "-m" in typed else typed[-1]
    monkeypatch.setattr(sys, "argv", [program_file, "--max_epochs", "1"])
    monkeypatch.setattr(sys, "orig_argv", typed)
    text = as_typed(TEXT)
    for each in says:
        assert each in text
    assert text.endswith("arcface-plus is another")


def test_the_interpreter_is_short_where_it_is_the_one_on_the_path(
    on_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/arcface_pl/__main__.py"])
    monkeypatch.setattr(sys, "orig_argv", [str(on_path / "python3")])
    assert program("fit") == "python3 -m arcface_pl fit"
    monkeypatch.setattr(sys, "orig_argv", ["/other/python3"])
    assert program("fit") == "/other/python3 -m arcface_pl fit"


def test_a_remedy_names_the_command_as_it_was_typed(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (in_folder / "model.onnx").touch()
    monkeypatch.setattr(sys, "argv", ["/x/arcface_pl/__main__.py"])
    monkeypatch.setattr(sys, "orig_argv", ["python"])
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path", "model.onnx"])
    assert "python -m arcface_pl evaluate and embed" in capsys.readouterr().err


def test_a_word_is_quoted_where_a_shell_would_split_it() -> None:
    assert word("runs/v1.ckpt") == "runs/v1.ckpt"
    assert word("my runs/v1.ckpt") in ("'my runs/v1.ckpt'", '"my runs/v1.ckpt"')
