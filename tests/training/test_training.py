"""Training through the Trainer in other ways than the plain one: accumulated, in another precision, compiled."""

import copy
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import lightning as L
import pytest
import torch
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule, SimpleCNN
from arcface_pl.callbacks import HealthCheck
from arcface_pl.callbacks.run.compile import CompilerError, check_compiler, compile_training_steps, uncompile
from arcface_pl.callbacks.run.lean_hooks import drop_empty_hooks, restore_hooks
from arcface_pl.cli import main
from arcface_pl.errors import CheckpointError


def make_trainer(**arguments: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **arguments,
    )


class Watch(L.Callback):
    """Writes down what each step computed, and saves a checkpoint where asked."""

    def __init__(self, save_at: int = -1, path: Path | None = None) -> None:
        self.losses: list[float] = []
        self.dtypes: set[torch.dtype] = set()
        self.matmul: set[str] = set()
        self.save_at, self.path = save_at, path

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.backbone.conv2.register_forward_hook(self._see)

    def _see(self, layer: Any, images: Any, features: Tensor) -> None:
        self.dtypes.add(features.dtype)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())
        self.matmul.add(torch.get_float32_matmul_precision())
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(self.path)


def fit(
    callbacks: list[L.Callback], checkpoint: Path | None = None, precision: Any = "32-true", **arguments: Any
) -> ArcFaceModule:
    """Train on the digits, 13 steps in two epochs."""
    L.seed_everything(3, verbose=False)
    module = ArcFaceModule(
        FastCNN(16, width=4), ArcFaceHead(16, 10), lambda params: torch.optim.Adam(params, 1e-2), **arguments
    )
    data = MNISTDataModule(dataset="digits", batch_size=200, eval_batch_size=1000, augment=False)
    trainer = make_trainer(max_epochs=2, precision=precision, callbacks=callbacks, log_every_n_steps=1)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return module


def assert_the_same(one: ArcFaceModule, other: ArcFaceModule) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, weights in one.state_dict().items():
        assert torch.equal(weights, other.state_dict()[name]), name


@pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step`", "ignore:The number of training batches", "ignore:.*does not have many"
)
@pytest.mark.parametrize(("size", "accumulated"), [(8, 4), (4, 8), (32, 1)])
def test_accumulated_batches_are_one_large_batch(size: int, accumulated: int) -> None:
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(96, 1, 28, 28, generator=generator), torch.arange(96) % 10

    def train(batch_size: int, accumulate: int) -> ArcFaceModule:
        torch.manual_seed(0)
        module = ArcFaceModule(SimpleCNN(16), ArcFaceHead(16, 10), lambda params: torch.optim.SGD(params, 0.01))
        trainer = make_trainer(max_epochs=2, accumulate_grad_batches=accumulate)
        trainer.fit(module, DataLoader(TensorDataset(images, labels), batch_size))
        assert trainer.global_step == 6
        return module

    torch.manual_seed(0)
    start = ArcFaceModule(SimpleCNN(16), ArcFaceHead(16, 10))
    whole, parts = train(32, 1), train(size, accumulated)
    for name, weights in whole.named_parameters():
        torch.testing.assert_close(parts.get_parameter(name), weights, rtol=0, atol=1e-6)
        assert (weights - start.get_parameter(name)).abs().max() > 1e-4  # else nothing was compared


PRECISIONS = {
    "32-true": (torch.float32, torch.float32),
    "64-true": (torch.float64, torch.float64),
    "bf16-mixed": (torch.bfloat16, torch.float32),
}


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_is_used_learns_and_resumes_exactly(precision: str, tmp_path: Path) -> None:
    computed, kept = PRECISIONS[precision]
    watch, rest = Watch(9, tmp_path / "middle.ckpt"), Watch()
    whole = fit([watch], precision=precision)
    assert watch.dtypes == {computed}
    assert {weight.dtype for weight in whole.parameters()} == {kept}
    assert watch.losses[-1] < watch.losses[0] / 2
    resumed = fit([rest], tmp_path / "middle.ckpt", precision=precision)
    assert rest.losses == watch.losses[9:]
    assert_the_same(resumed, whole)


def test_weights_of_double_precision_are_evaluated_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    fit([Watch(9, path)], precision="64-true")
    module = ArcFaceModule(FastCNN(16, width=4), ArcFaceHead(16, 10))
    data = MNISTDataModule(dataset="digits", batch_size=200, eval_batch_size=1000)
    make_trainer(precision="64-true").validate(
        module, datamodule=data, ckpt_path=path, verbose=False, weights_only=True
    )
    for name, weights in torch.load(path, weights_only=True)["state_dict"].items():
        assert torch.equal(module.state_dict()[name], weights), name


def test_a_cpu_takes_bfloat16_for_float16_and_says_so() -> None:
    with pytest.warns(UserWarning, match="Using `precision='bf16-mixed'` instead"):
        trainer = make_trainer(precision="16-mixed")
    assert trainer.precision == "bf16-mixed"


def test_hooks_that_do_nothing_are_passed_over_and_others_are_not() -> None:
    class Own(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            called.append("class")
            hooks.append(empty.on_train_batch_end)

    called: list[str] = []
    hooks: list[Any] = []
    own, given, empty = Own(), L.Callback(), L.Callback()
    given.on_after_backward = lambda *_: called.append("instance")  # type: ignore[method-assign]
    fit([own, given, empty])
    assert called == ["instance", "class"] * 14
    assert hooks == [None] * 14
    assert callable(empty.on_train_batch_end)
    assert callable(own.on_train_batch_end)


def test_what_a_failed_fit_left_out_is_looked_at_anew() -> None:
    class Later(L.Callback):
        pass

    later, pretended = Later(), Mock(spec=L.Callback)
    trainer = make_trainer()
    trainer.callbacks = [later, pretended]  # type: ignore[attr-defined]  # set where mypy does not look
    drop_empty_hooks(trainer)
    assert later.on_train_batch_end is later.on_after_backward is None
    Later.on_train_batch_end = lambda *_: None  # type: ignore[method-assign]
    drop_empty_hooks(trainer)
    assert callable(later.on_train_batch_end)
    assert later.on_after_backward is None
    assert callable(pretended.on_train_batch_end)
    restore_hooks(trainer)
    assert callable(later.on_after_backward)


def test_nothing_is_timed_unless_asked_for() -> None:
    profilers: dict[bool, list[Any]] = {}
    for asked in (False, True):
        trainer = make_trainer(max_epochs=1, profiler="simple" if asked else None)
        before = trainer.profiler  # type: ignore[attr-defined]
        seen = profilers.setdefault(asked, [])
        step = L.pytorch.callbacks.LambdaCallback(on_train_batch_end=lambda t, *_, seen=seen: seen.append(t.profiler))
        trainer.callbacks.append(step)  # type: ignore[attr-defined]
        data = MNISTDataModule(dataset="digits", batch_size=200, eval_batch_size=1000, augment=False)
        trainer.fit(ArcFaceModule(FastCNN(16, width=4), ArcFaceHead(16, 10)), datamodule=data)
        assert type(trainer.profiler) is type(before)  # type: ignore[attr-defined]
    assert {type(each).__mro__[1] for each in profilers[False]} == {PassThroughProfiler}
    assert {type(each) for each in profilers[True]} == {SimpleProfiler}
    assert profilers[True][0].recorded_durations["run_training_batch"]


def test_matrix_products_are_lowered_while_training_only() -> None:
    watch = Watch()
    before = torch.get_float32_matmul_precision()
    fit([watch], matmul_precision="medium")
    assert watch.matmul == {"medium"}
    assert torch.get_float32_matmul_precision() == before != "medium"


def test_matrix_products_are_as_before_after_a_failed_fit_and_another() -> None:
    class Broken(L.Callback):
        def on_train_start(self, *_: Any) -> None:
            raise ArithmeticError

    before = torch.get_float32_matmul_precision()
    module = ArcFaceModule(FastCNN(16, width=4), ArcFaceHead(16, 10), matmul_precision="medium")
    data = MNISTDataModule(dataset="digits", batch_size=200, eval_batch_size=1000)
    with pytest.raises(ArithmeticError):
        make_trainer(max_epochs=1, callbacks=[Broken()]).fit(module, datamodule=data)
    make_trainer(max_epochs=1, log_every_n_steps=1).fit(module, datamodule=data)
    assert torch.get_float32_matmul_precision() == before != "medium"


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
    compile_training_steps(compiled, "default")
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
    uncompile(compiled)
    assert "forward" not in vars(compiled)


@compiles
@pytest.mark.slow
@pytest.mark.timeout(280)
def test_compiled_steps_learn_and_resume_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    path = tmp_path / "middle.ckpt"
    eager, watch, rest = Watch(), Watch(9, path), Watch()
    plain = fit([eager])
    steps: list[str | None] = []
    compile_ = torch.compile

    def spy(function: Any, mode: str | None = None, **options: Any) -> Any:
        compiled = compile_(function, mode=mode, **options)
        return lambda *arguments: (steps.append(mode), compiled(*arguments))[1]  # type: ignore[func-returns-value]

    monkeypatch.setattr(torch, "compile", spy)
    whole = fit([watch], compile="default")
    assert watch.losses[-1] < watch.losses[0] / 2
    assert watch.losses[0] == pytest.approx(eager.losses[0], rel=1e-5)
    assert steps.count("default") == len(watch.losses)
    assert whole.state_dict().keys() == plain.state_dict().keys()
    torch._dynamo.reset()
    resumed = fit([rest], path, compile="default")
    assert rest.losses == watch.losses[9:]
    assert_the_same(resumed, whole)
    with pytest.raises(CheckpointError, match="compile: the checkpoint has 'default', this run None"):
        fit([], path)
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
    module = fit([health], compile="default")
    assert len(read) == 14
    assert read[0].shape == (200, 16)
    assert "forward" not in vars(module.backbone)  # evaluation after training is uncompiled


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any, **_: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(CompilerError, match=r"model.compile: .* cpu here \(No working C\+\+ compiler found\); accepts"):
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
