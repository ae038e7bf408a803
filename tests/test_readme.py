"""The commands and the Python of every README are run as they stand there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("[a-z]*/**/README.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(kind: str) -> list[tuple[str, str]]:
    """Code blocks of one kind, each with the README it stands in."""
    return [
        (str(path.parent.relative_to(ROOT)), text)
        for path in READMES
        for found, text in BLOCK.findall(path.read_text())
        if found == kind
    ]


LINES = [(room, line) for room, block in blocks("bash") for line in block.splitlines() if line.strip()]
INSTALLING = [line for _, line in LINES if "pip install" in line]
RUNNING = [(room, line) for room, line in LINES if line not in INSTALLING]
PYTHON = blocks("python")


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "ARCFACE_PL_DATA_DIR"}
    environment["OMP_NUM_THREADS"] = "1"
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


def test_the_two_set_up_commands_are_whole_lines() -> None:
    start = "python3 -m venv .venv && . .venv/bin/activate && pip install -e "
    assert [
        f"{start}. && python scripts/fit.py",
        f"{start}'.[test]' && pytest -m 'not slow' -n 2 --dist worksteal",
    ] == INSTALLING[:2]


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts in a folder of their own, with a run and pictures for the commands that want them."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    done = run("python scripts/fit.py --data.dataset digits --max_epochs 1", folder)
    assert done.returncode == 0, done.stderr[-2000:]
    digits = load_digits()
    zeros, ones = (iter(digits.images[digits.target == label]) for label in (0, 1))
    pictures = {f"people/ada/{number}.png": zeros for number in range(1, 6)}
    pictures |= {f"people/grace/{number}.png": ones for number in range(1, 6)}
    pictures |= {"shots/one.png": ones, "shots/zero.png": zeros, "photo.png": ones, "one.png": ones, "other.png": zeros}
    for name, images in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        drawn = Image.fromarray((next(images) * 255 / 16).astype("uint8")).resize((20, 20))
        ImageOps.expand(drawn, border=10).save(folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("room", "command"), RUNNING)
def test_command_runs(room: str, command: str, workplace: Path) -> None:
    quick = command
    words = set(command.split())
    if ("scripts/fit.py" in words or "arcface-pl fit" in command) and not {
        "--ckpt_path",
        "--data.root",
        "--data",
    } & words:
        quick += " --data.dataset digits --max_epochs 1"
    if "recognize enroll" in command:  # the gallery of another README was made by an earlier model
        shutil.rmtree(workplace / "gallery", ignore_errors=True)
    done = run(quick, workplace)
    if "--accelerator gpu" in command and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        assert done.returncode == 2
        assert "trainer.accelerator: got 'gpu'; expected cpu or auto" in done.stderr
    else:
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(len(PYTHON)), ids=[f"{room}-{n}" for n, (room, _) in enumerate(PYTHON)])
def test_python_runs(number: int, workplace: Path) -> None:
    """After the commands, whose files it may use."""
    _, code = PYTHON[number]
    if "predictions = module.head" in code:
        code += "\nassert embeddings.shape[1] == 64 and predictions.shape == labels.shape\n"
    (workplace / f"example_{number}.py").write_text(code)
    done = run(f"python example_{number}.py", workplace)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("path", READMES, ids=[str(path.relative_to(ROOT)) for path in READMES])
def test_files_that_are_linked_exist(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target
