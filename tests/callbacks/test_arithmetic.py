"""`Arithmetic` and Lightning's precisions: what computes, what is kept, and that runs resume exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tiny_runs import Watch, assert_the_same, fit_digits

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule

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
    whole = fit_digits([watch], precision=precision)
    assert watch.dtypes == {computed}
    assert {weight.dtype for weight in whole.parameters()} == {kept}
    assert watch.losses[-1] < watch.losses[0] / 2
    resumed = fit_digits([rest], tmp_path / "middle.ckpt", precision=precision)
    assert rest.losses == watch.losses[9:]
    assert_the_same(resumed, whole)


def test_weights_of_double_precision_are_evaluated_as_they_are(
    make_trainer: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    path = tmp_path / "middle.ckpt"
    fit_digits([Watch(9, path)], precision="64-true")
    module = ArcFaceModule(FastCNN(16, width=4), ArcFaceHead(16, 10))
    data = MNISTDataModule(dataset="digits", batch_size=200, eval_batch_size=1000)
    make_trainer(precision="64-true").validate(
        module, datamodule=data, ckpt_path=path, verbose=False, weights_only=True
    )
    for name, weights in torch.load(path, weights_only=True)["state_dict"].items():
        assert torch.equal(module.state_dict()[name], weights), name


def test_a_cpu_takes_bfloat16_for_float16_and_says_so(make_trainer: Callable[..., L.Trainer]) -> None:
    with pytest.warns(UserWarning, match="Using `precision='bf16-mixed'` instead"):
        trainer = make_trainer(precision="16-mixed")
    assert trainer.precision == "bf16-mixed"


def test_matrix_products_are_lowered_while_training_only() -> None:
    watch = Watch()
    before = torch.get_float32_matmul_precision()
    fit_digits([watch], matmul_precision="medium")
    assert watch.matmul == {"medium"}
    assert torch.get_float32_matmul_precision() == before != "medium"


def test_matrix_products_are_as_before_after_a_failed_fit_and_another(make_trainer: Callable[..., L.Trainer]) -> None:
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
