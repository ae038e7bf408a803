"""The moving average of the weights: its values, who sees it, and resuming."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tiny_runs import fit_digits
from torch import Tensor

from arcface_pl import ArcFaceModule
from arcface_pl.callbacks import ExponentialMovingAverage
from arcface_pl.cli import main

pytestmark = pytest.mark.timeout(200)


class Watch(L.Callback):
    """Writes down the weights after every step and at every validation, and saves a checkpoint where asked."""

    def __init__(self, save_at: int = -1, path: Path | None = None) -> None:
        self.steps: list[Tensor] = []
        self.validated: list[Tensor] = []
        self.save_at, self.path = save_at, path

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.steps.append(pl_module.head.weight.detach().clone())
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(self.path)

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.validated.append(pl_module.head.weight.detach().clone())


def averaged(steps: list[Tensor], decay: float) -> Tensor:
    average = steps[0].double()
    for number, weights in enumerate(steps[1:], start=1):
        now = min(decay, (1 + number) / (10 + number))
        average = now * average + (1 - now) * weights.double()
    return average


def test_validation_and_the_trained_module_have_the_average_and_training_does_not() -> None:
    watch, plain = Watch(), Watch()
    module = fit_digits([watch, ExponentialMovingAverage(decay=0.5)])
    fit_digits([plain])
    assert len(watch.steps) == 14
    assert all(torch.equal(one, other) for one, other in zip(watch.steps, plain.steps, strict=True))
    expected = averaged(watch.steps, 0.5)
    torch.testing.assert_close(module.head.weight.detach().double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(watch.validated[-1].double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(watch.validated[0].double(), averaged(watch.steps[:7], 0.5), rtol=0, atol=1e-6)
    assert not torch.allclose(module.head.weight, watch.steps[-1], atol=1e-4)
    counts = [count for name, count in module.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts
    assert all(count == 14 for count in counts)  # counted, not averaged


@pytest.mark.parametrize("step", [3, 7, 10])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, step: int) -> None:
    path = tmp_path / "middle.ckpt"
    watch, rest = Watch(step, path), Watch()
    whole = fit_digits([ExponentialMovingAverage(decay=0.9), watch])
    resumed = fit_digits([ExponentialMovingAverage(decay=0.9), rest], path)
    assert len(rest.steps) == 14 - step
    assert all(torch.equal(one, other) for one, other in zip(rest.steps, watch.steps[step:], strict=True))
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name


def test_the_checkpoint_holds_the_average(tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    watch = Watch(9, path)
    fit_digits([ExponentialMovingAverage(decay=0.9), watch])
    loaded = ArcFaceModule.load_from_checkpoint(path)
    torch.testing.assert_close(loaded.head.weight.double(), averaged(watch.steps[:9], 0.9), rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_the_average_of_narrow_weights_is_in_float32(tmp_path: Path, precision: str) -> None:
    """Rounded to bfloat16 after each step or validation it would be off by up to 2e-3 of a weight."""
    watch, rest = Watch(9, tmp_path / "middle.ckpt"), Watch(14, tmp_path / "resumed.ckpt")
    module = fit_digits([ExponentialMovingAverage(decay=0.9), watch], precision=precision)
    resumed = fit_digits([ExponentialMovingAverage(decay=0.9), rest], tmp_path / "middle.ckpt", precision)
    assert len({weights.dtype for weights in watch.steps + rest.steps} | {module.head.weight.dtype}) == 1
    assert all(torch.equal(one, other) for one, other in zip(rest.steps, watch.steps[9:], strict=True))
    assert torch.equal(resumed.head.weight, module.head.weight)
    for name, steps in (("middle", watch.steps[:9]), ("resumed", watch.steps)):
        average = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["state_dict"]["head.weight"]
        assert average.dtype == torch.float32
        torch.testing.assert_close(average.double(), averaged(steps, 0.9), rtol=0, atol=1e-6)
    seen = averaged(watch.steps[:7], 0.9).to(watch.validated[0].dtype)
    torch.testing.assert_close(watch.validated[0], seen, rtol=2**-8 if precision == "bf16-true" else 0, atol=1e-6)


def test_after_training_the_module_is_validated_with_the_weights_it_has(
    make_trainer: Callable[..., L.Trainer], tiny_module: Callable[..., ArcFaceModule], tiny_loader: Callable[..., Any]
) -> None:
    watch, module = Watch(), tiny_module()
    trainer = make_trainer(callbacks=[ExponentialMovingAverage(decay=0.9), watch], max_epochs=1)
    trainer.fit(module, tiny_loader(), tiny_loader())
    with torch.no_grad():
        module.head.weight.fill_(0.25)
    trainer.validate(module, tiny_loader(), verbose=False)
    assert torch.equal(watch.validated[-1], module.head.weight)
    assert (module.head.weight == 0.25).all()


@pytest.mark.slow
def test_the_run_tests_what_its_checkpoint_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's own callback would load the weights of training back before the test."""
    monkeypatch.chdir(tmp_path)
    callback = tmp_path / "average.yaml"
    callback.write_text(
        "trainer: {callbacks+: [{class_path: ExponentialMovingAverage, init_args: {decay: 0.97}}]}", encoding="utf-8"
    )
    flags = ["--data.dataset", "digits", "--max_epochs", "1", "--enable_progress_bar", "false"]
    main(["fit", "--config", str(callback), "--model.backbone", "FastCNN", *flags])
    (folder,) = tmp_path.glob("lightning_logs/*")
    main(["test", "--ckpt_path", str(folder / "checkpoints" / "best.ckpt")])
    results, again = (json.loads((folder / f"{name}.json").read_text()) for name in ("results", "test"))
    for key in ("test/accuracy", "test/loss"):
        assert results[key] == again[key]


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"decay: got {decay}"):
        ExponentialMovingAverage(decay)
