"""`HeadSharding`: settings of the Trainer that sharded, sampled and in-backward heads do not work with."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from thread_ranks import ThreadGroup, on_ranks

from arcface_pl import ArcFaceHead, shard_head
from arcface_pl.callbacks import ExponentialMovingAverage
from arcface_pl.callbacks.run.defaults import check_trainer
from arcface_pl.callbacks.run.resumed_settings import training_settings
from arcface_pl.callbacks.run.sharding import HeadSharding, check_sharding
from arcface_pl.checkpoints.plugin import DurableCheckpointIO
from arcface_pl.heads import ShardedHead
from arcface_pl.training.module import ArcFaceModule


def sgd(params: Any, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.05, momentum=0.9, **options)


class Own(TorchCheckpointIO):
    pass


class DDP(L.pytorch.strategies.DDPStrategy):
    def __init__(self) -> None:
        """Without processes."""


def fake(**settings: Any) -> Any:
    """A Trainer that this machine cannot have: a GPU's loss scaling, other strategies."""
    plain = {"world_size": 1, "accumulate_grad_batches": 1, "gradient_clip_val": None, "precision": "32-true"}
    return SimpleNamespace(**{**plain, "callbacks": [], "strategy": object(), **settings})


@pytest.fixture
def make(tiny_module: Callable[..., ArcFaceModule]) -> Callable[..., ArcFaceModule]:
    return lambda **arguments: tiny_module(**{"optimizer": sgd, **arguments})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches: got 2; expected 1"),
        ({"gradient_clip_val": 1.0}, "gradient_clip_val: got 1.0; expected null"),
        ({"callbacks": [GradientAccumulationScheduler({1: 4})]}, "accumulate_grad_batches: got 'a Gradient"),
        ({"callbacks": [ExponentialMovingAverage()]}, "update_head_in_backward: got True; expected false"),
    ],
)
def test_a_fit_that_needs_a_gradient_of_the_centers_is_refused_before_training(
    make: Callable[..., ArcFaceModule],
    make_trainer: Callable[..., L.Trainer],
    tiny_loader: Callable[..., Any],
    setting: dict[str, Any],
    message: str,
) -> None:
    module = make(update_head_in_backward=True)
    before = module.head.weight.detach().clone()
    with pytest.raises(ValueError, match=message):
        make_trainer(max_epochs=2, **setting).fit(module, tiny_loader())
    assert torch.equal(module.head.weight, before)


def test_loss_scaling_is_refused(make: Callable[..., ArcFaceModule]) -> None:
    module = make(update_head_in_backward=True)
    with pytest.raises(ValueError, match="precision: got '16-mixed'; expected bf16-mixed or 32-true"):
        check_sharding(module, fake(precision="16-mixed"))
    check_sharding(module, fake(precision="bf16-mixed"))


def test_optimizers_whose_rate_does_not_suit_sgd_are_refused(make: Callable[..., ArcFaceModule]) -> None:
    def adam(params: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(params, lr=1e-3)

    with pytest.raises(ValueError, match="model.head_lr: not set; expected a rate .* the optimizer is Adam"):
        check_sharding(make(update_head_in_backward="sgd", optimizer=adam), fake())
    check_sharding(make(update_head_in_backward="sgd", optimizer=adam, head_lr=0.1), fake())
    check_sharding(make(update_head_in_backward=True, optimizer=adam), fake())
    with pytest.raises(ValueError, match="^model.optimizer.dampening: got 0.5; expected off"):
        check_sharding(make(update_head_in_backward=True, optimizer=lambda p: sgd(p, dampening=0.5)), fake())
    with pytest.raises(ValueError, match="^model.optimizer: got 'Adagrad'; expected SGD, Adam or AdamW"):
        check_sharding(make(update_head_in_backward=True, optimizer=torch.optim.Adagrad), fake())
    with pytest.raises(ValueError, match="^update_head_in_backward: got 'adam'; expected true, false or sgd"):
        make(update_head_in_backward="adam")


def test_another_rule_of_the_centers_is_another_setting(make: Callable[..., ArcFaceModule]) -> None:
    def recorded(**arguments: Any) -> Any:
        module = make(**arguments)
        trainer: Any = fake(optimizers=[module.optimizer(module.parameters())], lr_scheduler_configs=[])
        return training_settings(trainer, module)["model.update_head_in_backward"]

    adam = torch.optim.Adam
    assert [recorded(update_head_in_backward=each) for each in (False, True, "sgd")] == [False, True, True]
    assert [recorded(update_head_in_backward=each, optimizer=adam) for each in (True, "sgd")] == ["Adam", True]


def test_several_processes_need_a_sharded_head_and_ddp(make: Callable[..., ArcFaceModule]) -> None:
    with pytest.raises(ValueError, match="trainer.strategy: got 'object'; expected ddp"):
        check_sharding(make(shard_head=True), fake(world_size=2))
    with pytest.raises(
        ValueError, match="model.shard_head: got False; expected true together with update_head_in_backward"
    ):
        check_sharding(make(update_head_in_backward=True), fake(world_size=2, strategy=DDP()))
    with pytest.raises(ValueError, match="head_sample_rate: got 0.5; expected 1.0 without update_head_in_backward"):
        check_sharding(make(head_sample_rate=0.5), fake())
    for rate in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="head_sample_rate: got"):
            make(head_sample_rate=rate)
    check_sharding(make(shard_head=True, update_head_in_backward=True), fake(world_size=2, strategy=DDP()))


def test_the_command_line_asks_before_training(make: Callable[..., ArcFaceModule]) -> None:
    with pytest.raises(ValueError, match="head_sample_rate: got 0.5"):
        check_trainer(make(head_sample_rate=0.5), fake())
    check_trainer(make(), fake(accumulate_grad_batches=4))


def test_scoring_takes_turns_and_ends_them_before_other_callbacks(
    make: Callable[..., ArcFaceModule],
    make_trainer: Callable[..., L.Trainer],
    tiny_loader: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    module = make(update_head_in_backward=True, head_sample_rate=0.5)
    trainer = make_trainer(max_epochs=1)
    hooks = ("on_validation_epoch_end", "on_test_epoch_end", "on_predict_epoch_end")
    other = L.pytorch.callbacks.LambdaCallback(
        setup=lambda *_, **__: calls.append(type(module.head).__name__),
        **{hook: lambda *_: calls.append("other") for hook in hooks},
    )
    trainer.callbacks.insert(0, other)  # type: ignore[attr-defined]
    monkeypatch.setattr(ShardedHead, "begin_turns", lambda self: calls.append("begin"))
    monkeypatch.setattr(ShardedHead, "end_turns", lambda self: calls.append("end"))
    trainer.fit(module, tiny_loader(), tiny_loader())
    trainer.test(module, tiny_loader(), verbose=False)
    trainer.predict(module, tiny_loader())
    assert calls[0] == "ArcFaceHead"
    assert [each for each in calls if "Head" not in each] == ["begin", "end", "other"] * 3
    assert len([each for each in calls if "Head" in each]) == 3  # each callback is set up once, whatever the order


@pytest.mark.parametrize("plugin", [AsyncCheckpointIO(), AsyncCheckpointIO(DurableCheckpointIO()), Own()])
def test_a_plugin_of_the_users_is_given_whole_tensors_and_the_run_says_so(plugin: Any) -> None:
    """Also where it wraps ours, which then writes from another thread than that of the collective calls."""

    def work(group: ThreadGroup) -> Any:
        head = shard_head(ArcFaceHead(4, 5))
        whole = head.weight.detach().clone()
        head._begin(group, 1.0)
        HeadSharding()._save_in_shards(SimpleNamespace(checkpoint_io=plugin), head, "fit")  # type: ignore[arg-type]
        return head.state_dict()["weight"], whole

    with pytest.warns(UserWarning, match=f"trainer.plugins: {type(plugin).__name__} is given the whole sharded head"):
        found = on_ranks(2, work)
    (one, first), (other, second) = found
    assert one.shape == other.shape == (5, 4)
    assert torch.equal(one, other)
    assert torch.equal(one, torch.cat([first[:2], second[2:]]))
