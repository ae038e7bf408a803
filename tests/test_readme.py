"""The README's commands and its Python are run as they stand there."""

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
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines() if line.strip()]
INSTALLING = [line for line in COMMANDS if "pip install" in line]
RUNNING = [line for line in COMMANDS if line not in INSTALLING]
PYTHON = [block for kind, block in BLOCKS if kind == "python"]


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "ARCFACE_PL_DATA_DIR"}
    environment["OMP_NUM_THREADS"] = "1"
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


def test_the_two_set_up_commands_are_whole_lines() -> None:
    start = "python3 -m venv .venv && . .venv/bin/activate && pip install -e "
    assert [f"{start}. && python scripts/fit.py", f"{start}'.[test]' && pytest -m 'not slow'"] == INSTALLING


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
@pytest.mark.parametrize("command", RUNNING)
def test_command_runs(command: str, workplace: Path) -> None:
    quick = command
    if "scripts/fit.py" in command and not {"--ckpt_path", "--data.root"} & set(command.split()):
        quick += " --data.dataset digits --max_epochs 1"
    done = run(quick, workplace)
    if "--accelerator gpu" in command and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        assert done.returncode == 2
        assert "trainer.accelerator: got 'gpu'; expected cpu or auto" in done.stderr
    else:
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", range(len(PYTHON)))
def test_python_runs(block: int, workplace: Path) -> None:
    """After the commands, whose files it may use."""
    code = PYTHON[block]
    if "embeddings = trained(images)" in code:
        code += "\nassert embeddings.shape[1] == 64 and predictions.shape == labels.shape\n"
    (workplace / f"example_{block}.py").write_text(code)
    done = run(f"python example_{block}.py", workplace)
    assert done.returncode == 0, done.stderr[-2000:]


def test_files_that_are_linked_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
