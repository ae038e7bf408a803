"""What `ArcFaceModule` and its callbacks tell the head and the random generators, step by step."""

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN
from arcface_pl.callbacks.run.compile import CompileTraining
from arcface_pl.callbacks.run.nonfinite import NonFiniteGuard
from arcface_pl.callbacks.run.step_seeds import StepSeeds
from arcface_pl.errors import NonFiniteError

Make = Callable[..., Any]


class Recording(ArcFaceHead):
    """Keeps what it is told, and a number drawn in each loss."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.progress: list[tuple[float, int]] = []
        self.batches: list[int] = []
        self.margins: list[float] = []
        self.counts: list[int] = []
        self.drawn: list[float] = []

    def set_progress(self, *, epoch: float, step: int, seed: int, batch: int = 0) -> None:
        super().set_progress(epoch=epoch, step=step, seed=seed, batch=batch)
        self.progress.append((epoch, step))
        self.batches.append(batch)

    def set_class_counts(self, counts: Any) -> None:
        self.counts = list(counts)

    def loss(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.training:
            self.margins.append(
                float(self.psi(torch.zeros(1).double(), torch.ones(1).double(), *map(torch.zeros, (1, 1))))
            )
            self.drawn.append(torch.rand(1).item())
        return super().loss(*args, **kwargs)


class Data(L.LightningDataModule):
    def __init__(self, loader: DataLoader) -> None:
        super().__init__()
        self.loader, self.class_counts = loader, [5, 6, 7, 14]

    def train_dataloader(self) -> DataLoader:
        return self.loader


def test_the_head_is_told_the_class_counts_before_training(make_trainer: Make, tiny_loader: Make) -> None:
    module = ArcFaceModule(FastCNN(16, width=4), Recording(16, 4))
    make_trainer(max_epochs=1).fit(module, datamodule=Data(tiny_loader()))
    assert module.head.counts == [5, 6, 7, 14]


def test_the_head_is_told_fractional_epochs_before_each_loss(make_trainer: Make, tiny_loader: Make) -> None:
    module = ArcFaceModule(FastCNN(16, width=4), Recording(16, 4, margin=0.4, margin_warmup_epochs=1.0))
    make_trainer(max_epochs=2).fit(module, tiny_loader())
    assert module.head.progress == [(step / 4, step) for step in range(8)]
    # psi at 90 degrees is -sin(margin): the margin of the warm-up grows within the epoch
    margins = torch.tensor([min(1.0, step / 4) * 0.4 for step in range(8)], dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(module.head.margins, dtype=torch.float64), -margins.sin())


def test_batches_of_one_optimizer_step_have_different_numbers(make_trainer: Make, tiny_loader: Make) -> None:
    """ElasticFace draws its margins by them."""
    module = ArcFaceModule(FastCNN(16, width=4), Recording(16, 4))
    make_trainer(max_epochs=1, accumulate_grad_batches=2).fit(module, tiny_loader())
    assert [step for _, step in module.head.progress] == [0, 0, 1, 1]
    assert module.head.batches == [0, 1, 2, 3]


def test_each_step_draws_by_its_place_in_the_run_alone(make_trainer: Make, tiny_loader: Make) -> None:
    runs = []
    for before in (0, 5):
        L.seed_everything(3, verbose=False)
        module = ArcFaceModule(FastCNN(16, width=4), Recording(16, 4))
        torch.rand(before + 1)
        make_trainer(max_epochs=2).fit(module, tiny_loader())
        runs.append(module.head.drawn)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 8


def test_a_users_callback_takes_the_place_of_the_default(
    make_trainer: Make, tiny_loader: Make, tiny_module: Make
) -> None:
    class OneSeed(StepSeeds):
        def seed(self, trainer: L.Trainer, batch_idx: int) -> int:
            return 7

    class Lenient(NonFiniteGuard):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            seen.append(trainer.global_step)

    seen: list[int] = []
    mine = [OneSeed(), Lenient()]
    module = ArcFaceModule(FastCNN(16, width=4), Recording(16, 4))
    trainer = make_trainer(max_epochs=1, callbacks=mine)
    trainer.fit(module, tiny_loader())
    assert len(set(module.head.drawn)) == 1
    assert seen == [0, 1, 2, 3]
    for kind, one in ((StepSeeds, mine[0]), (NonFiniteGuard, mine[1])):
        assert [each for each in trainer.callbacks if isinstance(each, kind)] == [one]
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, tiny_loader())
    kinds = [type(each) for each in trainer.callbacks]
    assert len(kinds) == len(set(kinds))  # a second fit adds nothing twice
    assert CompileTraining not in kinds


def test_a_trainer_of_strangers_keeps_its_own_objects(make_trainer: Make, tiny_loader: Make, tiny_module: Make) -> None:
    class Mine(L.Callback):
        pass

    mine = Mine()
    trainer = make_trainer(max_epochs=1, callbacks=[mine])
    profiler = trainer.profiler
    trainer.fit(tiny_module(), tiny_loader())
    assert not any(name.startswith("on_") for name in vars(mine))
    assert trainer.profiler is profiler
    assert "__setattr__" not in vars(ArcFaceModule)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_the_guard_stands_between_gradients_and_weights(
    make_trainer: Make, tiny_loader: Make, tiny_module: Make, poison: str
) -> None:
    class Poison(L.Callback):
        def on_after_backward(self, trainer: L.Trainer, pl_module: Any) -> None:
            if poison == "gradient" and trainer.global_step == 2:
                pl_module.head.weight.grad[0, 0] = float("nan")

    class Faulty(ArcFaceModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            factor = float("nan") if poison == "loss" and batch_idx == 2 else 1.0
            return super().training_step(batch, batch_idx) * factor

    module = Faulty(FastCNN(16, width=4), ArcFaceHead(16, 4))
    with pytest.raises(NonFiniteError, match=f"{'the loss is nan' if poison == 'loss' else 'gradients'}.* at step 2"):
        make_trainer(max_epochs=1, callbacks=[Poison()]).fit(module, tiny_loader())
    assert all(weight.isfinite().all() for weight in module.parameters())
