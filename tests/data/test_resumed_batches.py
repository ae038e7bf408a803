"""A Trainer that is restarted from a checkpoint goes on with exactly the batches of the uninterrupted run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from made_up import MadeUp
from tiny_runs import QUIET
from torch import Tensor, nn

from arcface_pl.data import MNISTDataModule

Record = tuple[int, int, Tensor, Tensor]


class Recorder(L.LightningModule):
    """A small model that writes down every batch it is given, exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(784, 10)
        self.seen: list[Record] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch_idx, *batch))
        return nn.functional.cross_entropy(self.net(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(
    checkpoint: Path | None = None,
    callbacks: Sequence[Callback] = (),
    data: dict[str, Any] | None = None,
    **trainer: Any,
) -> Recorder:
    torch.manual_seed(0)
    model = Recorder()
    datamodule = MNISTDataModule(**{"batch_size": 32, "seed": 5, **(data or {})})
    fit = L.Trainer(**{**QUIET, **trainer}, callbacks=list(callbacks)).fit
    fit(model, datamodule, ckpt_path=checkpoint, weights_only=True)
    return model


def same(one: Record, other: Record) -> bool:
    return one[:2] == other[:2] and torch.equal(one[2], other[2]) and torch.equal(one[3], other[3])


class Saver(Callback):
    """Save a checkpoint whenever a hook is called; unlike ModelCheckpoint it leaves no state of its own in them."""

    def __init__(self, hook: str, folder: Path) -> None:
        self.paths: list[Path] = []
        self.step = 0

        def save(trainer: L.Trainer, *_: Any) -> None:
            # Gradients that are being accumulated are in no checkpoint, so none is made between two steps.
            if trainer.state.fn == "fit" and (hook != "on_train_batch_end" or trainer.global_step > self.step):
                self.step = trainer.global_step
                self.paths.append(folder / f"{len(self.paths)}.ckpt")
                trainer.save_checkpoint(self.paths[-1])

        setattr(self, hook, save)


RUNS = {
    "epochs": {"max_epochs": 3},
    "steps": {"max_epochs": -1, "max_steps": 10},
    "epochs and steps": {"max_epochs": 5, "max_steps": 9},
    "accumulated": {"max_epochs": 3, "accumulate_grad_batches": 3},
    "accumulated steps": {"max_epochs": -1, "max_steps": 5, "accumulate_grad_batches": 3},
    "limited": {"max_epochs": 3, "limit_train_batches": 3},
    "validated in mid-epoch": {"max_epochs": 2, "val_check_interval": 2},
}


@pytest.fixture(autouse=True)
def data(made_up: MadeUp, use: Any, tmp_path: Path) -> None:
    use(made_up.spec)
    made_up.write(tmp_path / "data")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end", "on_validation_end"])
@pytest.mark.parametrize("name", RUNS)
def test_from_every_checkpoint_the_rest_is_that_of_the_uninterrupted_run(tmp_path: Path, name: str, hook: str) -> None:
    saver = Saver(hook, tmp_path)
    whole = run(callbacks=[saver], **RUNS[name])
    assert len(whole.seen) >= 8
    assert len(saver.paths) >= 2
    lengths = []
    for checkpoint in saver.paths:
        rest = run(checkpoint, **RUNS[name])
        lengths.append(len(rest.seen))
        tail = whole.seen[len(whole.seen) - len(rest.seen) :]
        assert all(same(one, other) for one, other in zip(rest.seen, tail, strict=True)), checkpoint.name
        assert torch.equal(rest.net.weight, whole.net.weight), checkpoint.name
    assert max(lengths) > 0


def test_the_recorder_would_notice(tmp_path: Path) -> None:
    """Another seed, and another epoch, give other batches: the equality above is not an empty one."""
    one, other = run(max_epochs=2), run(max_epochs=2, data={"seed": 6})
    assert not any(same(a, b) for a, b in zip(one.seen, other.seen, strict=True))
    assert not any(torch.equal(a[2], b[2]) for a, b in zip(one.seen[:4], one.seen[4:], strict=True))


def test_a_finished_run_can_be_made_longer(tmp_path: Path) -> None:
    saver = Saver("on_train_end", tmp_path)
    run(callbacks=[saver], max_epochs=2)
    longer, whole = run(saver.paths[0], max_epochs=4), run(max_epochs=4)
    assert len(longer.seen) == 8
    assert all(same(one, other) for one, other in zip(longer.seen, whole.seen[8:], strict=True))
    assert torch.equal(longer.net.weight, whole.net.weight)


class Failing(Callback):
    """Fail in the middle of a step, and leave a checkpoint of what there is then."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyError("failed")

    def on_exception(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("step", [1, 5])
def test_a_step_that_failed_half_way_is_done_again(tmp_path: Path, step: int) -> None:
    whole = run(max_epochs=2)
    with pytest.raises(KeyError, match="failed"):
        run(callbacks=[Failing(step, tmp_path / "failed.ckpt")], max_epochs=2)
    rest = run(tmp_path / "failed.ckpt", max_epochs=2)
    assert len(rest.seen) == 8 - step
    assert all(same(one, other) for one, other in zip(rest.seen, whole.seen[step:], strict=True))


def test_overfitting_takes_the_same_batches_in_every_epoch() -> None:
    seen = run(max_epochs=2, overfit_batches=2).seen
    assert len(seen) == 4
    assert all(torch.equal(one[2], other[2]) for one, other in zip(seen[:2], seen[2:], strict=True))


class TestOtherBatches:
    @pytest.fixture
    def checkpoint(self, tmp_path: Path) -> Path:
        saver = Saver("on_train_end", tmp_path)
        run(callbacks=[saver], max_epochs=1)
        return saver.paths[0]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"batch_size": 16}, r"data\.batch_size: the checkpoint has 32, this run 16"),
            ({"seed": 6}, r"data\.seed: the checkpoint has 5, this run 6"),
            ({"val_fraction": 0.2}, r"exactly\. train images of class 0: the checkpoint has \d+, this run \d+; train"),
            ({"dataset": "digits"}, "data: the checkpoint has 'mnist [0-9a-f]{16}', this run 'digits [0-9a-f]{16}'"),
            ({"rotation": 5.0}, r"exactly\. data\.rotation: the checkpoint has 10\.0, this run 5\.0\. Restore"),
            (
                {"elastic": 0.5, "zoom": 0.1},
                r"exactly\. data\.elastic: the checkpoint has None, this run 0\.5\. Restore",
            ),
            ({"augment": False}, r"data\.augment: the checkpoint has 'Augmentation\(.*\)', this run 'None'"),
            (
                {"transform": torch.nn.Identity()},
                r"data\.transform: the checkpoint has 'Augmentation\(.*, this run '\(Id",
            ),
            ({"normalize": False}, r"data\.normalize: the checkpoint has True, this run False"),
        ],
    )
    def test_resuming_with_other_batches_is_refused(
        self, checkpoint: Path, change: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            run(checkpoint, data=change, max_epochs=2)

    def test_it_goes_on_where_that_is_allowed(self, checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
        model = run(checkpoint, data={"batch_size": 16, "allow_inexact_resume": True}, max_epochs=2)
        assert len(model.seen) == 7
        assert "batch_size: the checkpoint has 32, this run 16" in caplog.text

    def test_what_does_not_change_the_batches_may_change(self, checkpoint: Path) -> None:
        assert len(run(checkpoint, data={"eval_batch_size": 7}, max_epochs=2).seen) == 4

    def test_evaluating_on_other_data_is_not_refused(self, checkpoint: Path) -> None:
        digits = MNISTDataModule(dataset="digits")
        L.Trainer(**QUIET).validate(Recorder(), digits, ckpt_path=checkpoint, weights_only=True)

    def test_the_checkpoint_holds_plain_values_only(self, checkpoint: Path) -> None:
        content = torch.load(checkpoint, weights_only=True)
        assert content["MNISTDataModule"]["batch_size"] == 32
        assert content["datamodule_hyper_parameters"]["batch_size"] == 32


def test_without_validation_a_trainer_just_trains() -> None:
    assert len(run(max_epochs=1, data={"val_fraction": 0.0}).seen) == 4
