"""What memory cannot hold names the setting that asks for it."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from tiny_runs import TINY_FIT

from arcface_pl import ArcFaceModule
from arcface_pl.cli import main
from arcface_pl.cli.memory import is_out_of_memory, largest_of, too_large, too_large_in_run


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
