"""What callbacks froze or changed in the module is part of an exact resume, within an epoch too."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from tiny_runs import QUIET, SaveAt
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule
from arcface_pl.callbacks import RunCheckpoint
from arcface_pl.callbacks.run import exact_resume
from arcface_pl.callbacks.run.module_changes import ModuleChanges
from arcface_pl.callbacks.run.trainer_changes import TrainerChanges
from arcface_pl.checkpoints.reading import read_checkpoint
from arcface_pl.errors import CheckpointError


class Net(FastCNN):
    """With dropout, and an attribute that its forward reads."""

    def __init__(self) -> None:
        super().__init__(8, width=4)
        self.dropout = nn.Dropout(0.5)
        self.gain: Any = 1.0
        self.act: Any = torch.tanh

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.act(self.dropout(super().forward(images)) * self.gain)


def freeze(module: Any) -> None:
    module.backbone.conv2.requires_grad_(False)


def thaw_later(module: Any) -> None:
    module.backbone.conv1.requires_grad_(True)


def evaluate_norm(module: Any) -> None:
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.eval()


def forget_statistics(module: Any) -> None:
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.track_running_stats = False
            each.momentum = 0.5


def drop_less(module: Any) -> None:
    module.backbone.dropout.p = 0.1
    module.backbone.gain = 2.0


def weigh(module: Any) -> None:
    module.backbone.gain = torch.linspace(0.5, 2, 8)


def replace_module(module: Any) -> None:
    module.backbone.dropout = nn.Identity()


def add_hook(module: Any) -> None:
    module.backbone.dropout.register_forward_hook(lambda _, __, output: output.relu())


def replace_function(module: Any) -> None:
    module.backbone.act = torch.sigmoid


class Once(L.Callback):
    """Changes the module after the first step; a resumed run does not come by there again."""

    def __init__(self, change: Any) -> None:
        self.change = change

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == 1:
            self.change(pl_module)


def fit(root: Path, callbacks: list[L.Callback], checkpoint: Path | None = None, **arguments: Any) -> ArcFaceModule:
    L.seed_everything(0, verbose=False)
    module = ArcFaceModule(Net(), ArcFaceHead(8, 10), lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.9))
    if any(isinstance(each, Once) and each.change is thaw_later for each in callbacks):
        module.backbone.conv1.requires_grad_(False)  # type: ignore[union-attr]
    data = MNISTDataModule(dataset="digits", batch_size=32, augment=False)
    limits = {"max_epochs": 2, "limit_train_batches": 4, "limit_val_batches": 1, "default_root_dir": root}
    trainer = L.Trainer(**{**QUIET, **limits, **arguments}, callbacks=callbacks)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return module


def test_modules_are_compared_in_the_first_resumed_step_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    compare = exact_resume.lost
    monkeypatch.setattr(
        exact_resume, "lost", lambda module, state: steps.append(module.global_step) or compare(module, state)
    )
    save = SaveAt(3, tmp_path / "three.ckpt")
    fit(tmp_path, [save])
    assert not steps
    fit(tmp_path, [], save.path)
    assert steps == [3]


def assert_equal(one: ArcFaceModule, other: ArcFaceModule) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    for (name, first), second in zip(one.named_modules(), other.modules(), strict=True):
        assert first.training == second.training, name
    assert [each.requires_grad for each in one.parameters()] == [each.requires_grad for each in other.parameters()]


@pytest.mark.parametrize("change", [freeze, thaw_later, evaluate_norm, forget_statistics, drop_less, weigh])
def test_it_is_restored_bit_for_bit(change: Any, tmp_path: Path) -> None:
    whole = fit(tmp_path, [Once(change), SaveAt(2, tmp_path / "within.ckpt")])
    assert_equal(whole, fit(tmp_path, [Once(change)], tmp_path / "within.ckpt"))


CODE = {
    replace_module: "backbone.dropout: the checkpoint has Identity, this run Dropout",
    add_hook: "backbone.dropout: the checkpoint has Dropout with 1 hook, this run Dropout",
    replace_function: "backbone.act: the checkpoint has sigmoid, this run tanh",
}


class Always(L.Callback):
    """Makes the change before each step, once."""

    def __init__(self, change: Any) -> None:
        self.change, self.is_done = change, False

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if not self.is_done:
            self.change(pl_module)
        self.is_done = True


@pytest.mark.parametrize("change", CODE)
def test_what_no_checkpoint_can_hold_is_refused_unless_it_is_there_again(change: Any, tmp_path: Path) -> None:
    whole = fit(tmp_path, [Always(change), SaveAt(2, tmp_path / "within.ckpt")])
    assert_equal(whole, fit(tmp_path, [Always(change)], tmp_path / "within.ckpt"))
    fit(tmp_path, [Once(change), SaveAt(2, tmp_path / "within.ckpt")])
    with pytest.raises(CheckpointError, match=f"{CODE[change]} .a callback changed it"):
        fit(tmp_path, [Once(change)], tmp_path / "within.ckpt")


def test_a_metrics_counts_are_no_change(tmp_path: Path) -> None:
    metric = MulticlassAccuracy(3)
    changes = ModuleChanges()
    changes.begin(metric)
    metric.update(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]))
    assert changes.state_of(metric, evaluating=False) == {"frozen": [], "evaluating": [], "changed": {}, "code": {}}


def test_a_checkpoint_written_during_validation_has_the_modes_of_training(tmp_path: Path) -> None:
    fit(tmp_path, [Once(evaluate_norm), RunCheckpoint()], val_check_interval=2, enable_checkpointing=True, max_epochs=1)
    saved = read_checkpoint(tmp_path / "checkpoints/best.ckpt")["exact"]["module"]["evaluating"]
    modules = ArcFaceModule(Net(), ArcFaceHead(8, 10)).named_modules()
    norms = [name for name, each in modules if isinstance(each, nn.BatchNorm2d)]
    assert sorted(saved) == sorted(norms)


@pytest.mark.filterwarnings("ignore:The provided params to be frozen already exist")
@pytest.mark.parametrize("step", [3, 6])
def test_backbone_finetuning_is_resumed_bit_for_bit(step: int, tmp_path: Path) -> None:
    def tuned() -> list[L.Callback]:
        return [BackboneFinetuning(1, lambda epoch: 1.0, backbone_initial_lr=0.01, should_align=False)]

    whole = fit(tmp_path, [*tuned(), SaveAt(step, tmp_path / "within.ckpt")], max_epochs=3)
    assert_equal(whole, fit(tmp_path, tuned(), tmp_path / "within.ckpt", max_epochs=3))


def test_names_that_are_gone_are_skipped() -> None:
    state = {"frozen": ["a"], "evaluating": ["b"], "changed": {"c": {"p": 0.1}}}
    layer = nn.Dropout(0.5)
    ModuleChanges().restore(layer, state)
    assert (layer.p, layer.training) == (0.5, True)


def accumulate(module: Any) -> None:
    module.trainer.accumulate_grad_batches = 2


def clip(module: Any) -> None:
    module.trainer.gradient_clip_val = 0.05


def clip_values(module: Any) -> None:
    module.trainer.gradient_clip_val, module.trainer.gradient_clip_algorithm = 0.001, "value"


class SaveOnce(SaveAt):
    """Before further batches are accumulated."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if not self.path.exists():
            super().on_train_batch_end(trainer)


@pytest.mark.parametrize("change", [accumulate, clip, clip_values])
def test_what_a_callback_set_in_the_trainer_is_restored(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "within.ckpt"
    whole = fit(tmp_path, [Once(change), SaveOnce(2, path)], limit_train_batches=6)
    assert_equal(whole, fit(tmp_path, [Once(change)], path, limit_train_batches=6))
    assert_equal(whole, fit(tmp_path, [], path, limit_train_batches=6))
    plain = fit(tmp_path, [], limit_train_batches=6)
    assert not torch.equal(plain.head.weight, whole.head.weight)  # else nothing was compared


def test_what_the_settings_ask_for_wins_over_what_a_callback_had_set(tmp_path: Path) -> None:
    path = tmp_path / "within.ckpt"
    fit(tmp_path, [Once(clip), SaveOnce(2, path)])
    resumed = fit(tmp_path, [], path, gradient_clip_val=7.0)
    assert resumed.trainer.gradient_clip_val == 7.0


def test_what_a_damaged_checkpoint_holds_is_not_set() -> None:
    trainer = L.Trainer(**QUIET)
    changes = TrainerChanges(trainer)
    for odd in ({"accumulate_grad_batches": [1, 0]}, {"gradient_clip_val": [None, "x"]}, {"callbacks": [1, 2]}, 5):
        changes.restore(trainer, odd)  # type: ignore[arg-type]
    assert changes.state_of(trainer) == {}
    changes.restore(trainer, {"accumulate_grad_batches": [1, 3]})
    assert changes.state_of(trainer) == {"accumulate_grad_batches": [1, 3]}
