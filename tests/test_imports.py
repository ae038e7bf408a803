"""What each command and room may import: libraries take seconds, which a picture's class need not wait for."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
from PIL import Image
from tiny_runs import save_model

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN
from arcface_pl.cli import main
from arcface_pl.cli.config import BASE_CONFIG, read_config

OF_TRAINING = {"lightning", "sklearn", "matplotlib", "tensorboard", "torchmetrics", "torchvision", "torch._dynamo"}
ALL = OF_TRAINING | {"torch", "numpy", "scipy", "onnx", "onnxruntime", "faiss", "jsonargparse", "starlette"}
PARSER = {"rich"}  # what a command line is checked with
USE = {"rich", "torch", "numpy", "scipy"}  # what a trained model is used with


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and a picture whose name is enrolled."""
    folder = tmp_path_factory.mktemp("use")
    module = ArcFaceModule(FastCNN(16, width=4), ArcFaceHead(16, 4))
    facts = {"class_names": [*"abcd"], "normalization": ((0.2,), (0.4,)), "dataset_name": "mnist"}
    save_model(module, folder / "m.ckpt", **facts)
    picture = Image.new("L", (64, 64), 255)
    picture.paste(0, (30, 10, 36, 50))
    (folder / "people" / "bar").mkdir(parents=True)
    picture.save(folder / "people" / "bar" / "one.png")
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "recognize",
                "enroll",
                str(folder / "m.ckpt"),
                str(folder / "people"),
                "--gallery",
                str(folder / "gallery"),
            ]
        )
    assert not ended.value.code
    return folder


@pytest.mark.parametrize(
    ("line", "code", "allowed"),
    [
        ("--help", 0, set()),
        ("fit --help", 0, set()),
        ("nosuch", 2, set()),
        ("fit --nosuch 1", 2, set()),
        ("test --ckpt_path nosuch.ckpt", 2, set()),
        ("fit --config nosuch", 2, set()),
        ("validate", 2, set()),
        ("predict --data.dataset digits", 2, set()),
        ("test --ckpt_path best", 2, set()),
        ("fit --ckpt_path last --default_root_dir people", 2, set()),
        ("fit --model.head ArcFaceHed", 2, {"jsonargparse"}),
        ("fit --model.optimizer AdamX", 2, {"jsonargparse"}),
        ("fit -c m.ckpt", 2, set()),
        ("fit --data.batch_size x", 2, {"jsonargparse"}),
        ("fit --max_epochs 0", 2, {"jsonargparse"}),
        ("fit -c fast --devices x", 2, {"jsonargparse"}),
        ("fit -c face --model.head.margin x", 2, {"jsonargparse"}),
        ("predict m.ckpt", 2, PARSER),
        ("predict nosuch.ckpt people", 2, PARSER),
        ("export nosuch.ckpt", 2, PARSER),
        ("predict best people", 2, PARSER),
        ("evaluate last", 2, PARSER),
        ("predict --help", 0, PARSER),
        ("recognize --help", 0, PARSER),
        ("recognize identify m.ckpt", 2, PARSER),
        ("evaluate --nosuch", 2, PARSER),
        ("export m.ckpt --format nosuch", 2, PARSER),
        ("demo --port x", 2, PARSER),
        pytest.param("predict m.ckpt people/bar/one.png", 0, USE, marks=pytest.mark.slow),
        pytest.param("recognize identify m.ckpt people/bar/one.png", 0, USE, marks=pytest.mark.slow),
    ],
)
def test_a_command_imports_no_more_than_it_needs(folder: Path, line: str, code: int, allowed: set[str]) -> None:
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('imported', *sorted({ALL} & sys.modules.keys())))\n"
        "from arcface_pl.cli import main\n"
        "main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *line.split()],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    imported = set(done.stdout.splitlines()[-1].split()[1:])
    assert imported <= allowed
    if allowed is USE:
        assert "torch" in imported


def test_flags_of_the_trainer_are_known_without_it() -> None:
    assert read_config(BASE_CONFIG)["trainer"].keys() == inspect.signature(L.Trainer).parameters.keys()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("rooms", "unwanted"),
    [
        ("arcface_pl.metrics.functional, arcface_pl.figures", OF_TRAINING | {"scipy"}),
        ("arcface_pl.backbones, arcface_pl.heads, arcface_pl.recognizer", OF_TRAINING),
    ],
)
def test_importing_a_room_imports_nothing_heavy(rooms: str, unwanted: set[str]) -> None:
    code = f"import sys, {rooms}; print({unwanted} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["set()"]
