"""Names with control characters, markup and formulas; terminals that show ASCII only."""

import csv
import io
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from arcface_pl.cli import main
from arcface_pl.cli.parser import cell
from arcface_pl.errors import csv_value, folded, listed, printable

CLASSES = ["=1+1", "@b\x07", "-c", "[bold]d\x1b[31m", "é\nf"]
"""Of folders: formulas, a bell, markup of rich, a color, a line break, and a letter that ASCII lacks."""

CONTROL = {chr(code) for code in (*range(32), *range(127, 160))} - {"\n"}


def clean(text: str) -> bool:
    return not CONTROL & set(text)


def test_lines_break_between_words_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    line = "NOTE: no two validation images are of one class; see lightning_logs/version_0/checkpoints/best.ckpt-or-last"
    monkeypatch.setenv("COLUMNS", "40")
    lines = folded(line, Terminal()).splitlines()
    assert " ".join(lines) == line
    assert all(len(each) < 40 for each in lines if " " in each)
    assert folded(line, io.StringIO()) == folded(line, None) == line
    wide = "got 绿茶 and 饼干 and ねこ and 고양이 and cat and dog"
    lines = folded(wide, Terminal()).splitlines()
    assert " ".join(lines) == wide
    assert [cell_len(each) for each in lines] == [37, 15]


@pytest.mark.parametrize("code", [*range(32), *range(127, 160), 0x202E, 0x2028, 0xDCFF])
def test_each_control_character_is_escaped(code: int) -> None:
    for escape in (printable, cell, csv_value, lambda text: listed([text])):
        assert (shown := escape(f"a{chr(code)}b")).isprintable()
        assert (shown[0], shown[-1]) == ("a", "b")
        assert escape(shown) == shown


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(1)", "=\n"])
def test_no_spreadsheet_takes_a_name_for_a_formula(text: str) -> None:
    assert csv_value(text) == f"'{printable(text)}"


@pytest.mark.parametrize("value", [-1, -0.5, "a=1", "", "é"])
def test_other_values_of_a_csv_stay(value: object) -> None:
    assert csv_value(value) == value


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a hostile name: images of classes with hostile names, and a run on them."""
    place = tmp_path_factory.mktemp("terminals") / "[/red]\x1b[2Jp"
    generator = torch.Generator().manual_seed(0)
    for number, name in enumerate(CLASSES):
        folder = place / "images" / name
        folder.mkdir(parents=True)
        for index in range(8):
            pixels = torch.randint(0, 60, (16, 16), generator=generator, dtype=torch.uint8)
            pixels[3 * number : 3 * number + 3] += 150
            Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
        (folder / "notes\x1b.t\x1bt").write_text("no image")
    (place / "images" / "none\x1b[1m").mkdir()
    return place


def fit(place: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHON"))}
    plain |= {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "LANG": "C",
        "COLUMNS": "250",
        **environment,
    }
    program = [sys.executable, "-c", "from arcface_pl.cli import main; main()", "fit"]
    flags = ["--max_epochs", "1", "--accelerator", "cpu", "--enable_progress_bar", "false"]
    return subprocess.run(
        [*program, *flags, *words], cwd=place, env=plain, capture_output=True, timeout=280, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize("columns", ["0", "00", ""])
def test_a_terminal_without_columns_shows_the_tables(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers without a terminal set COLUMNS=0."""
    monkeypatch.setenv("COLUMNS", columns)
    with suppress(SystemExit):
        main(["--version"])
    shown = Console(file=io.StringIO())
    shown.print("accuracy")
    assert "accuracy" in shown.file.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("variables", [{}, {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])
def test_a_run_ends_with_its_table_where_the_terminal_shows_ascii_only(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    done = fit(tmp_path, "--data.dataset", "digits", PYTHONIOENCODING="ascii", **variables)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    out = done.stdout.decode("ascii")
    assert "accuracy with the margin left on" in out
    assert "mean angle to the target class" in out
    assert "checkpoint   lightning_logs/version_0/checkpoints/best.ckpt" in out


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_hostile_names_reach_no_output(
    place: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    words = ["--data", "ImageFolderDataModule", "--data.root", "images", "--data.image_size", "16"]
    words += ["--data.batch_size", "8", "--default_root_dir", str(place / "r[/bold]\x1b[5m")]
    done = fit(place, *words, PYTHONIOENCODING="ascii")
    err = done.stderr.decode("ascii")
    assert done.returncode == 0, err[-2000:]
    out = done.stdout.decode("ascii")
    assert clean(out)
    assert clean(err)
    assert "[bold]d\\x1b[31m" in out
    assert "none\\x1b[1m" in err
    assert "5 .t\\x1bt" in err
    checkpoint = next(place.rglob("best.ckpt"))
    picture, unreadable = place / "images" / CLASSES[0] / "0.png", place / "=bad\x1b.png"
    unreadable.write_text("no picture")
    calls = [
        ["predict", checkpoint, picture, unreadable],
        ["predict", checkpoint, picture, unreadable, "--csv"],
        ["evaluate", checkpoint, "--json", place / "[/i]e\x1b.json"],
        ["recognize", "enroll", checkpoint, place / "images" / CLASSES[3], "--gallery", place / "g\x1b"],
        ["recognize", "identify", checkpoint, picture, "--gallery", place / "g\x1b", "--threshold", "-1"],
        ["recognize", "list", checkpoint, "--gallery", place / "g\x1b"],
        ["predict", "--ckpt_path", checkpoint, "--enable_progress_bar", "false"],
        ["predict", place / "none\x1b.ckpt", picture],
        ["evaluate", place / "none\x1b.ckpt"],
        ["fit", "--ckpt_path", place / "none\x1b.ckpt"],
        ["fit", "--config", place / "none\x1b.yaml"],
        ["fit", "--model.head", "no\x1b[1mHead"],
        ["fit", "--data.data\x1bset", "digits"],
        ["fit", "--data", "ImageFolderDataModule", "--data.root", place / "none\x1b[1m"],
        ["no\x1b[1m"],
    ]
    capsys.readouterr()
    for call in calls:
        with suppress(SystemExit):
            main([str(word) for word in call])
        shown = capsys.readouterr()
        assert clean(shown.out), call
        assert clean(shown.err), call
        assert shown.out or "\\x1b" in shown.err, call
        if "--csv" in call:
            rows = list(csv.DictReader(io.StringIO(shown.out)))
            assert rows[0]["label"] in map(csv_value, CLASSES)
    with next(place.rglob("predictions.csv")).open(encoding="utf-8", newline="") as file:
        text = file.read()
    assert clean(text.replace("\r\n", ""))
    assert {row["label"] for row in csv.DictReader(io.StringIO(text))} <= set(map(csv_value, CLASSES))
