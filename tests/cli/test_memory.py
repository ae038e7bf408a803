"""What memory cannot hold names the setting that asks for it."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from PIL import Image
from tiny_runs import TINY_FIT, save_model

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN
from arcface_pl.cli import main
from arcface_pl.cli.memory import check_tool_memory, is_out_of_memory, largest_of, too_large, too_large_in_run


def failed(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *TINY_FIT, "--trainer.logger", "false", *flags])
    assert ended.value.code == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("name", "value", "size"),
    [
        ("model.backbone.embedding_dim", 10**12, ", not .*PiB"),
        ("model.backbone.width", 10**12, ""),
        ("model.head.sub_centers", 10**12, ", not .*PiB"),
        ("model.backbone.embedding_dim", 10**20, ""),  # torch cannot even compute the size
    ],
)
def test_a_network_that_cannot_be_built(
    in_folder: Path, capsys: pytest.CaptureFixture[str], name: str, value: int, size: str
) -> None:
    line = failed(capsys, f"--{name}", str(value))
    assert re.search(f"error: {name}: got {value}; expected what fits in memory{size}", line), line
    assert not list(in_folder.iterdir())


@pytest.mark.parametrize("step", ["training_step", "validation_step"])
def test_a_step_that_does_not_fit(
    in_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.50 GiB. GPU 0 has a total capacity of 2")

    monkeypatch.setattr(ArcFaceModule, step, fail)
    line = failed(capsys, "--num_sanity_val_steps", "0", "--data.batch_size", "48", "--data.eval_batch_size", "96")
    name = "data.batch_size: got 48" if step == "training_step" else "data.eval_batch_size: got 96"
    assert f"error: {name}; expected what fits in memory, not 3.50 GiB. Lower it, or model." in line


def test_where_an_optimizer_keeps_its_state_the_network_is_too_large() -> None:
    config = Namespace(model=Namespace(backbone=Namespace(class_path="x", init_args=Namespace(width=4000, flag=True))))
    cli = SimpleNamespace(config=config, datamodule=SimpleNamespace(image_size=8000))
    error = MemoryError()
    assert too_large_in_run(cli, error, ["arcface_pl.cli.run", "torch.optim.adam"]).startswith(
        "model.backbone.width: got"
    )
    assert too_large_in_run(cli, error, ["arcface_pl.data.base"]).startswith("data.image_size: got 8000; expected what")


def test_the_number_farthest_above_its_default_is_to_blame() -> None:
    arguments = {"num_classes": 10**6, "sub_centers": 300, "shuffle": True, "scale": 64.0}
    assert largest_of(arguments, {"sub_centers": 1, "num_classes": 10**5}) == "sub_centers"
    assert largest_of(arguments) == "num_classes"
    assert largest_of({"scale": 64.0}) == ""
    said = too_large(
        "a", 5, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2048 bytes.")
    )
    assert said == "a: got 5; expected what fits in memory, not 2 KiB. Lower it"


def test_what_allocators_say_and_others_do_not() -> None:
    for make in (
        lambda: torch.empty(10**15),
        lambda: torch.empty(2**40, 2**40),
        lambda: torch.empty(10**20),
        lambda: bytearray(2**62),
    ):
        with pytest.raises((RuntimeError, MemoryError, TypeError, OverflowError)) as caught:
            make()
        assert is_out_of_memory(caught.value), caught.value
    for other in (ValueError("batch_size: got 5"), RuntimeError("size mismatch"), KeyError("out of memory")):
        assert not is_out_of_memory(other)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a picture, and a gallery that has it."""
    folder = tmp_path_factory.mktemp("used")
    facts = {"class_names": [*"0123456789"], "normalization": ((0.2,), (0.4,)), "dataset_name": "digits"}
    save_model(ArcFaceModule(FastCNN(16, width=4), ArcFaceHead(16, 10)), folder / "m.ckpt", **facts)
    picture = Image.new("L", (64, 64), 255)
    picture.paste(0, (30, 10, 36, 50))
    (folder / "people" / "bar").mkdir(parents=True)
    picture.save(folder / "people" / "bar" / "one.png")
    with pytest.raises(SystemExit) as ended:
        main(["recognize", "enroll", f"{folder}/m.ckpt", f"{folder}/people", "--gallery", f"{folder}/gallery"])
    assert not ended.value.code
    return folder


def exhausted(*_: Any, **__: Any) -> None:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4294967296 bytes.")


PICTURE, DIGITS = "people/bar/one.png", "--data MNISTDataModule --data.dataset digits --data.eval_batch_size 99"
BATCH, MODEL = "data.eval_batch_size: got 99; expected what", "MODEL: got 'm.ckpt'; expected weights that"
IN_TOOLS = {
    f"predict m.ckpt {PICTURE}": f"IMAGE: got '{PICTURE}'; expected pictures that",
    f"embed m.ckpt {PICTURE}": f"IMAGE: got '{PICTURE}'; expected pictures that",
    f"embed m.ckpt {DIGITS}": BATCH,
    f"evaluate m.ckpt {DIGITS}": BATCH,
    f"inspect m.ckpt {DIGITS}": BATCH,
    f"recognize identify m.ckpt {PICTURE}": f"INPUT: got '{PICTURE}'; expected pictures that",
    "recognize enroll m.ckpt people --gallery new": "INPUT: got 'people'; expected pictures that",
    "export m.ckpt --images people --output m.onnx": "--images: got 'people'; expected pictures that",
    "export m.ckpt --output m.onnx": MODEL,
}


@pytest.mark.parametrize("line", IN_TOOLS)
def test_a_forward_pass_that_does_not_fit(
    line: str, used: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(used)
    monkeypatch.setattr(FastCNN, "forward", exhausted)
    assert f"error: {IN_TOOLS[line]}" in refused(line, capsys)


@pytest.mark.parametrize(
    "line",
    [*(each for each in IN_TOOLS if "MODEL" not in each), "serve m.ckpt --port 0", "demo m.ckpt --port 0"],
)
def test_a_model_that_does_not_fit(
    line: str, used: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(used)
    monkeypatch.setattr(FastCNN, "__init__", exhausted)  # what reads the file takes it for the file's fault
    assert f"error: {MODEL}" in refused(line, capsys)


@pytest.mark.parametrize("line", [f"recognize identify m.ckpt {PICTURE}", "serve m.ckpt --port 0 --gallery gallery"])
def test_a_gallery_that_does_not_fit(
    line: str, used: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(used)
    monkeypatch.setattr("arcface_pl.recognizer.gallery._directions", exhausted)
    assert "error: --gallery: got 'gallery'; expected names that fit in memory" in refused(line, capsys)


def refused(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2, said
    assert "fit in memory, not 4 GiB" in said or "fits in memory, not 4 GiB" in said
    return said


def test_other_errors_of_tools_stay_what_they_are() -> None:
    check_tool_memory(RuntimeError("size mismatch"))
