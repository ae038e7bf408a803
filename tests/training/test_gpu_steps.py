"""Training on a CUDA device: no step makes the host wait, whatever the precision, the clipping and the head."""

from typing import Any

import lightning as L
import pytest
import torch
from tiny_runs import QUIET, waiting

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class NoWaiting(L.Callback):
    """Raises where a step makes the host wait for the device: forward, backward, optimizer and the run's callbacks.

    From the third step on: the first ones load kernels and make the optimizer's state.
    """

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step >= 2:
            waiting("error")

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        waiting("default")
        self.steps += 1

    def on_exception(self, *_: Any) -> None:
        waiting("default")


@pytest.mark.parametrize(
    ("precision", "clipping", "in_backward"),
    [("32-true", 1.0, False), ("bf16-mixed", None, False), ("bf16-mixed", None, True)],
)
def test_a_step_of_the_module_never_waits(precision: Any, clipping: float | None, in_backward: bool) -> None:
    L.seed_everything(3, verbose=False)
    module = ArcFaceModule(
        FastCNN(16, width=4),
        ArcFaceHead(16, 10, margin_warmup_epochs=1),
        lambda params: torch.optim.AdamW(params, 1e-2, fused=True),
        head_lr=0.01 if in_backward else None,
        shard_head=in_backward,
        update_head_in_backward=in_backward,
    )
    data = MNISTDataModule(dataset="digits", batch_size=200, eval_batch_size=1000)
    watch = NoWaiting()
    arguments = {**QUIET, "accelerator": "gpu", "log_every_n_steps": 1000}
    trainer = L.Trainer(**arguments, max_epochs=2, precision=precision, gradient_clip_val=clipping, callbacks=[watch])
    trainer.fit(module, datamodule=data)
    assert watch.steps == 14
