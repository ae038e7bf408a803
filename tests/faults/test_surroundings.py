"""Odd but legal surroundings: a command works, or ends in one line and leaves nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
from PIL import Image
from tiny_runs import QUIET, TINY_FIT, save_model

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule

PROGRAM = f"{sys.executable} -c 'from arcface_pl.cli import main; main()'"
NUMBERS = [
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "NODE_RANK",
    "MASTER_PORT",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "OMP_NUM_THREADS",
]
COMMANDS = ["fit", "test", "validate", "predict", "evaluate", "recognize", "export", "demo"]


def shell(place: Path, line: str, **environment: str) -> subprocess.CompletedProcess:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHON"))}
    variables |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        ["bash", "-c", line], cwd=place, env=variables, capture_output=True, timeout=250, text=True, check=False
    )


@pytest.mark.parametrize("name", NUMBERS)
def test_variables_of_launchers(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from arcface_pl.cli import main

    for command in COMMANDS:
        for value in ("x", "", "-1", "1.5"):
            monkeypatch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main([command, "nosuch.ckpt"])
            assert ended.value.code == 2
            error = capsys.readouterr().err
            assert error.startswith(f"arcface-pl {command}: error: ${name}: got {value!r}; expected a whole number")
            assert error.count("\n") == 1


LINES = {
    "full": (f"{PROGRAM} --help > /dev/full", "standard output: cannot be written (No space left on device)"),
    "little address space": (
        f"ulimit -v 1000000; {PROGRAM} evaluate best",
        "ulimit -v: got '1000000 kB'; expected at least",
    ),
    "folder gone": (f"mkdir x; cd x; rmdir ../x; {PROGRAM} nonsense", "no such command"),
    "warnings are errors": (f"PYTHONWARNINGS=error {PROGRAM} nonsense", "no such command"),
}


@pytest.mark.parametrize("case", LINES)
def test_one_line_and_nothing_left(case: str, tmp_path: Path) -> None:
    line, message = LINES[case]
    done = shell(tmp_path, line)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("line", "code"), [("--help | head -1", 0), ("--help >&-", 0), ("nonsense 2>&-", 2)])
def test_output_that_nobody_reads(line: str, code: int, tmp_path: Path) -> None:
    done = shell(tmp_path, f"{PROGRAM} {line}")
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_output_of_which_the_last_byte_does_not_fit(tmp_path: Path) -> None:
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
        "from arcface_pl.cli import main; main(['--help'])"
    )
    whole = shell(tmp_path, f"{PROGRAM} --help").stdout
    for unbuffered in ("", "-u"):
        line = f'PYTHONDONTWRITEBYTECODE=1 {sys.executable} {unbuffered} -c "{limited}" {len(whole) - 1} > out'
        done = shell(tmp_path, line)
        assert done.returncode == 2, unbuffered
        assert "standard output: cannot be written (File too large)" in done.stderr


USES = {  # of a trained model: the shell's words around it, exit code, and what standard error ends in
    "full": ("", ">/dev/full", 2, "error: standard output: cannot be written (No space left on device)\n"),
    "closed": ("", ">&-", 0, ""),
    "errors closed": ("", "2>&-", 0, ""),
    "read in part": ("", "| head -1", 0, ""),
    "no home, no folder for temporary files": ("env -u HOME TMPDIR=/nonexistent", "", 0, ""),
}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", USES)
def test_a_use_of_a_model(case: str, tmp_path: Path) -> None:
    module = ArcFaceModule(FastCNN(8, width=4), ArcFaceHead(8, 4))
    save_model(module, tmp_path / "m.ckpt")
    Image.linear_gradient("L").save(tmp_path / "p.png")
    before, after, code, end = USES[case]
    done = shell(tmp_path, f"{before} {PROGRAM} predict m.ckpt p.png --threshold 0 {after}")
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == bool(end), done.stderr
    assert done.stderr.endswith(end)


WORKS = {
    "no home": "env -u HOME ",
    "home is a file": "HOME=/etc/passwd ",
    "no folder for temporary files": "TMPDIR=/nonexistent ",
    "warnings are errors": "PYTHONWARNINGS=error ",
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", WORKS)
def test_a_run_to_its_closing_table(case: str, tmp_path: Path) -> None:
    flags = " ".join([*TINY_FIT, "--max_epochs", "1", "--enable_progress_bar", "false"])
    done = shell(tmp_path, f"{WORKS[case]}{PROGRAM} fit {flags}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "trained in" in done.stdout


FULL = "error: standard output: cannot be written (No space left on device)\n"
GONE = "error: the current folder: it has been deleted; change to another one\n"
LARGE = "cannot be written (File too large); give "


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that a Trainer wrote, a picture, and two folders of pictures."""
    folder = tmp_path_factory.mktemp("trained")
    trainer = L.Trainer(**QUIET, max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    trainer.fit(ArcFaceModule(FastCNN(8, width=4), ArcFaceHead(8, 10)), datamodule=MNISTDataModule(dataset="digits"))
    trainer.save_checkpoint(folder / "m.ckpt")
    picture = Image.new("L", (64, 64), 255)
    picture.paste(0, (30, 10, 36, 50))
    picture.save(folder / "p.png")
    for place, turn in ((place, turn) for place in ("people/ada", "people/bob") for turn in range(3)):
        (folder / place).mkdir(parents=True, exist_ok=True)
        picture.rotate(turn * 10, fillcolor=255).save(folder / place / f"{turn}.png")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "kind",
    [
        "full",
        "file size",
        "no input",
        "folder gone",
        "no home, no folder for temporary files",
        "read-only folders for temporary files",
        "warnings are errors",
    ],
)
def test_every_use_of_a_model(kind: str, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    child = Path(__file__).with_name("surroundings_child.py")
    done = shell(tmp_path, f"{sys.executable} {child} '{kind}'")
    assert done.returncode == 0, done.stderr
    for row in map(json.loads, done.stdout.splitlines()):
        refused = {"full": FULL, "folder gone": GONE, "file size": LARGE}.get(kind, "")
        if kind == "read-only folders for temporary files" and row["name"] == "export":  # which tries what it wrote
            refused = "$TMPDIR: got '/proc'; expected a folder that can be written. No usable temporary directory found"
        if kind == "folder gone" and row["name"] not in ("test", "predictions"):
            refused = ""
        if kind == "file size" and row["name"] in ("predict", "export"):
            continue  # writes nothing; or a temporary file first
        assert row["code"] == (2 if refused else 0), row
        assert row["error"].count("\n") == bool(refused), row
        assert refused in row["error"], row
        if kind == "file size":
            assert row["left"] == ["m.ckpt"], row
            assert row["same"], row
