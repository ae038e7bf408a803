"""`CompileTraining`: compiled steps have the same gradients, resume exactly, and leave the network as it was."""

import copy
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Watch, assert_the_same, fit_digits
from torch import Tensor

from arcface_pl import ArcFaceModule, FastCNN
from arcface_pl.callbacks import HealthCheck
from arcface_pl.callbacks.run.compile import CompilerError, CompileTraining, check_compiler
from arcface_pl.cli import main
from arcface_pl.errors import CheckpointError


def compiles(test: Any) -> Any:
    """Skip where there is nothing to compile with; dynamo hides a warning that an error filter precedes."""
    has_compiler = shutil.which(os.environ.get("CXX", "g++")) is not None
    skipped = pytest.mark.skipif(not has_compiler, reason="needs a C++ compiler")(test)
    return pytest.mark.filterwarnings("ignore:The .grad attribute")(skipped)


@compiles
@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_compiled_network_has_the_same_gradients_and_is_left_as_it_was() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain = FastCNN(16, width=4).double()
    compiled = copy.deepcopy(plain)
    names = list(compiled.state_dict())
    callback = CompileTraining()
    callback.compile(compiled)
    for size in (20, 7):
        images, direction = torch.randn(size, 1, 28, 28).double(), torch.randn(size, 16).double()
        for network in (plain, compiled):
            network.zero_grad()
            (network(images) * direction).sum().backward()
        for name, weight in plain.named_parameters():
            torch.testing.assert_close(compiled.get_parameter(name).grad, weight.grad, rtol=1e-9, atol=1e-11)
    assert list(compiled.state_dict()) == names
    compiled.load_state_dict(plain.state_dict())  # statistics of the batches were summed in another order
    plain.eval()
    compiled.eval()
    assert torch.equal(compiled(images), plain(images))  # evaluation is the same operations
    callback.uncompile(compiled)
    assert "forward" not in vars(compiled)


@compiles
@pytest.mark.slow
@pytest.mark.timeout(280)
def test_compiled_steps_learn_and_resume_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    path = tmp_path / "middle.ckpt"
    eager, watch, rest = Watch(), Watch(9, path), Watch()
    plain = fit_digits([eager])
    steps: list[str | None] = []
    compile_ = torch.compile

    def spy(function: Any, mode: str | None = None, **options: Any) -> Any:
        compiled = compile_(function, mode=mode, **options)
        return lambda *arguments: (steps.append(mode), compiled(*arguments))[1]  # type: ignore[func-returns-value]

    monkeypatch.setattr(torch, "compile", spy)
    whole = fit_digits([watch], compile="default")
    assert watch.losses[-1] < watch.losses[0] / 2
    assert watch.losses[0] == pytest.approx(eager.losses[0], rel=1e-5)
    assert steps.count("default") == len(watch.losses)
    assert whole.state_dict().keys() == plain.state_dict().keys()
    torch._dynamo.reset()
    resumed = fit_digits([rest], path, compile="default")
    assert rest.losses == watch.losses[9:]
    assert_the_same(resumed, whole)
    with pytest.raises(CheckpointError, match="compile: the checkpoint has 'default', this run None"):
        fit_digits([], path)
    images = torch.randn(5, 1, 28, 28)
    loaded = ArcFaceModule.load_from_checkpoint(path)
    assert type(loaded.backbone).forward is FastCNN.forward
    assert loaded(images).shape == (5, 16)


@compiles
@pytest.mark.slow
@pytest.mark.timeout(280)
def test_hooks_see_what_a_compiled_network_gives() -> None:
    torch._dynamo.reset()
    health = HealthCheck()
    read: list[Tensor] = []
    health._read_step = lambda trainer, module, embeddings, *_: read.append(embeddings)  # type: ignore[method-assign]
    module = fit_digits([health], compile="default")
    assert len(read) == 14
    assert read[0].shape == (200, 16)
    assert "forward" not in vars(module.backbone)  # evaluation after training is uncompiled


def test_every_batch_size_has_a_graph_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph for several sizes would depend on which came first: a resumed run may begin with another."""
    torch._dynamo.reset()
    sizes = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        sizes.append(next(each.shape[0] for each in inputs if each.dim() == 4))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    backbone = FastCNN(8, width=4).train()
    CompileTraining("default").compile(backbone)
    for size in (4, 6, 8, 6, 4):
        backbone(torch.zeros(size, 1, 28, 28))
    assert sizes == [4, 6, 8]


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any, **_: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        CompilerError, match=r"model.compile: .* cpu here \(No working C\+\+ compiler found\); expected"
    ):
        check_compiler(torch.device("cpu"))


def test_the_command_line_says_so_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "compile", lambda function, **_: 1 / 0)
    for flag, message in (
        ("default", "model.compile: torch.compile does not work"),
        ("fast", "model.compile: got fast"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["fit", "--data.dataset", "digits", "--accelerator", "cpu", "--model.compile", flag])
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []
