"""Every row of `RESUMED_SETTINGS`: each setting really changed on resume is applied, refused or harmless as it says."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    Checkpoint,
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from pytorch_metric_learning import losses
from tiny_runs import QUIET
from torch.optim import SGD, lr_scheduler

from arcface_pl import ArcFaceHead, ArcFaceModule, CosFaceHead, FastCNN, MNISTDataModule
from arcface_pl.callbacks import ExponentialMovingAverage, RunCheckpoint
from arcface_pl.callbacks.run.resumed_settings import RESUMED_SETTINGS, verdict
from arcface_pl.cli.config import BASE_CONFIG, read_config
from arcface_pl.errors import UserError
from arcface_pl.training.extra_losses import ExtraLoss

pytestmark = [
    pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The provided params to be frozen already exist"),
    pytest.mark.filterwarnings("ignore:You are trying to .self.log.* but .Trainer.barebones"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

BASE: dict[str, Any] = {
    "trainer": {"limit_train_batches": 2, "limit_val_batches": 1, "gradient_clip_val": 0.5},
    "model": {
        "optimizer": partial(SGD, lr=0.1, momentum=0.9),
        "lr_schedule": partial(lr_scheduler.StepLR, step_size=1, gamma=0.5),
    },
    "data": {"batch_size": 32, "augment": False},
}
BAREBONES = {"trainer.barebones": True, **{f"trainer.{name}": None for name in (
    "log_every_n_steps", "enable_progress_bar", "enable_model_summary", "num_sanity_val_steps", "enable_checkpointing",
    "logger")}}  # fmt: skip
IN_BACKWARD = {"model.update_head_in_backward": True, "trainer.gradient_clip_val": None}


class Module(ArcFaceModule):
    """With a setting beyond the package's."""

    def __init__(self, penalty: float = 0.0, frozen: bool = False, **kwargs: Any) -> None:
        super().__init__(**{"backbone": FastCNN(8, width=4), "head": ArcFaceHead(8, 10), **kwargs})
        self.penalty = penalty
        self.backbone.conv2.requires_grad_(not frozen)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) + self.penalty * self(batch[0]).square().mean()


class Switch(L.Callback):
    """Changes a setting of an uninterrupted run where others are resumed; saves the first epoch; counts validations."""

    def __init__(
        self, change: Callable[[Any], None] | None = None, stop: bool = False, save: Path | None = None
    ) -> None:
        self.change, self.stop, self.save, self.validated = change, stop, save, 0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self.change and trainer.current_epoch == 1:
            self.change(trainer)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or (self.stop and trainer.current_epoch == 1)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.save and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.save)

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        self.validated += 1


class Fitted:
    """One run of a changed `BASE`; settings are given by full name."""

    def __init__(self, root: Path, epochs: int, checkpoint: Path | None = None, **changes: Any) -> None:
        sections = {name: dict(values) for name, values in BASE.items()}
        seed = changes.pop("seed_everything", 0)
        callbacks = list(changes.pop("callbacks", []))
        for name, value in changes.items():
            section, _, last = name.partition(".")
            sections[section][last] = value
        L.seed_everything(seed, verbose=False)
        torch.set_num_threads(1)
        self.module = Module(**sections["model"])
        data = MNISTDataModule(dataset="digits", **sections["data"])
        self.watch = next((each for each in callbacks if isinstance(each, Switch)), Switch())
        arguments = {**QUIET, "max_epochs": epochs, "default_root_dir": root, **sections["trainer"]}
        if any(isinstance(each, Checkpoint) for each in callbacks):
            arguments["enable_checkpointing"] = True
        others = [each for each in callbacks if each is not self.watch]
        self.trainer: Any = L.Trainer(callbacks=[*others, self.watch], **arguments)
        self.trainer.fit(self.module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        self.weights = {name: each.detach().clone() for name, each in self.module.state_dict().items()}
        self.step = self.trainer.global_step

    def is_same_as(self, other: "Fitted") -> bool:
        return all(torch.equal(each, other.weights[name]) for name, each in self.weights.items())


Made = Callable[..., tuple[Path, Fitted]]
_CACHE: dict[str, tuple[Path, Fitted]] = {}


@pytest.fixture
def first(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """``first(callbacks, **base)``: the checkpoint of one epoch, and the uninterrupted run of two."""

    def make(callbacks: Callable[[], list[Any]] = list, **base: Any) -> tuple[Path, Fitted]:
        key = repr((callbacks, base))
        if key not in _CACHE:
            folder = tmp_path_factory.mktemp("first")
            Fitted(folder, 1, callbacks=[*callbacks(), Switch(save=folder / "first.ckpt")], **base)
            _CACHE[key] = folder / "first.ckpt", Fitted(folder, 2, callbacks=callbacks(), **base)
        return _CACHE[key]

    return make


def refused(*parts: str, callbacks: Any = (list, list), base: Any = None, **changes: Any) -> Any:
    return ("refused", parts, callbacks, base or {}, changes)


SWA = partial(StochasticWeightAveraging, swa_lrs=0.05, swa_epoch_start=1)
REFUSED = {
    "model.backbone": refused("'FastCNN'", "'Other'", **{"model.backbone": type("Other", (FastCNN,), {})(8, width=4)}),
    "model.backbone.width": refused(
        "width: the checkpoint has 4, this run 8", **{"model.backbone": FastCNN(8, width=8)}
    ),
    "model.extra_losses": refused(
        "SupConLoss.weight: the checkpoint has None, this run 0.5",
        **{"model.extra_losses": ExtraLoss(losses.SupConLoss(), 0.5)},
    ),
    "model.head": refused("'ArcFaceHead', this run 'CosFaceHead'", **{"model.head": CosFaceHead(8, 10)}),
    "model.head.margin": refused("0.5, this run 0.2", **{"model.head": ArcFaceHead(8, 10, margin=0.2)}),
    "model.head.scale": refused("30.0, this run 12.0", **{"model.head": ArcFaceHead(8, 10, scale=12.0)}),
    "model.optimizer": refused("'SGD', this run 'Adam'", **{"model.optimizer": partial(torch.optim.Adam, lr=0.1)}),
    "model.optimizer.momentum": refused("0.9, this run 0.5", **{"model.optimizer": partial(SGD, lr=0.1, momentum=0.5)}),
    "model.optimizer.weight_decay": refused(
        "weight_decay: the checkpoint has 0, this run 0.1",
        **{"model.optimizer": lambda groups: SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1)},
    ),
    "model.optimizer.backbone.lr": refused(
        "model.optimizer.backbone.lr: the checkpoint has None, this run 0.01",
        **{"model.optimizer": lambda groups: SGD([{**groups[0], "lr": 0.01}, groups[1]], lr=0.1, momentum=0.9)},
    ),
    "model.lr_schedule": refused("'StepLR', this run None", **{"model.lr_schedule": None}),
    "model.lr_schedule.step_size": refused(
        "step_size: the checkpoint has 1, this run 2",
        **{"model.lr_schedule": partial(lr_scheduler.StepLR, step_size=2, gamma=0.5)},
    ),
    "model.lr_schedule.gamma": refused(
        "gamma: the checkpoint has 0.5, this run 0.1",
        **{"model.lr_schedule": lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)},
    ),
    "model.lr_schedule.milestones": refused(
        "milestones: the checkpoint has [1], this run [1, 2]",
        base={"model.lr_schedule": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [1])},
        **{"model.lr_schedule": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [1, 2])},
    ),
    "model.lr_schedule.patience": refused(
        "patience: the checkpoint has 1, this run 3",
        base={"model.lr_schedule": partial(lr_scheduler.ReduceLROnPlateau, patience=1)},
        **{"model.lr_schedule": partial(lr_scheduler.ReduceLROnPlateau, patience=3)},
    ),
    "model.lr_schedule.max_lr": refused(
        "max_lr: the checkpoint has 0.5, this run 0.7",
        base={"model.lr_schedule": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=9)},
        **{"model.lr_schedule": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.7, total_steps=9)},
    ),
    "model.head_lr": refused("model.head_lr: the checkpoint has None, this run 0.5", **{"model.head_lr": 0.5}),
    "model.freeze": refused("None, this run ['backbone']", **{"model.freeze": "backbone"}),
    "model.trainable_blocks": refused(
        "None, this run 1", base={"model.freeze": "backbone"}, **{"model.trainable_blocks": 1}
    ),
    "model.unfreeze_at_epoch": refused(
        "None, this run 1", base={"model.freeze": "backbone"}, **{"model.unfreeze_at_epoch": 1}
    ),
    "model.backbone_lr_factor": refused("None, this run 0.1", **{"model.backbone_lr_factor": 0.1}),
    "model.frozen": refused("the checkpoint has [], this run ['backbone.conv2.weight']", **{"model.frozen": True}),
    "model.update_head_in_backward": refused("False, this run True", **IN_BACKWARD),
    "trainer.callbacks.BaseFinetuning": refused(
        "unfreeze_backbone_at_epoch: the checkpoint has 1, this run 3",
        callbacks=(lambda: [BackboneFinetuning(1)], lambda: [BackboneFinetuning(3)]),
    ),
    "trainer.callbacks.StochasticWeightAveraging": refused(
        "swa_lrs: the checkpoint has 0.05, this run 0.01",
        callbacks=(lambda: [SWA()], lambda: [SWA(swa_lrs=0.01)]),
    ),
    "trainer.callbacks.WeightAveraging": refused(
        "trainer.callbacks.WeightAveraging: the checkpoint has True, this run None",
        callbacks=(lambda: [ExponentialMovingAverage(0.5)], list),
    ),
}
ALLOWED = {
    "model.shard_head": refused("False, this run True", **{"model.shard_head": True}),
    "model.channels_last": refused("True, this run False", **{"model.channels_last": False}),
    "model.num_threads": refused("1, this run 2", **{"model.num_threads": 2}),
    "model.compile": refused("None, this run 'default'", **{"model.compile": "default"}),
    "model.matmul_precision": refused("None, this run 'high'", **{"model.matmul_precision": "high"}),
    "trainer.accumulate_grad_batches": refused("1, this run 2", **{"trainer.accumulate_grad_batches": 2}),
    "trainer.precision": refused("'32-true', this run '64-true'", **{"trainer.precision": "64-true"}),
    "trainer.callbacks.GradientAccumulationScheduler": refused(
        "{'0': 1, '1': 2}, this run {'0': 1, '1': 4}",
        callbacks=tuple(
            partial(lambda count: [GradientAccumulationScheduler({0: 1, 1: count})], count) for count in (2, 4)
        ),
    ),
    "data": refused("data.batch_size: the checkpoint has 32, this run 16", **{"data.batch_size": 16}),
    "seed_everything": refused("seed_everything: the checkpoint has 0, this run 1", seed_everything=1),
}
# What one machine without accelerator cannot change: the checkpoint's value is changed instead
ELSEWHERE = {"trainer.devices": 3, "trainer.num_nodes": 4, "trainer.accelerator": "NVIDIA H100", "torch": "2.0.0"}
QUICK = ["model.lr_schedule.step_size", "model.optimizer.backbone.lr", "model.frozen", "model.lr_schedule.max_lr"]


def check_refused(case: Any, first: Made, tmp_path: Path) -> None:
    _, parts, (before, after), base, changes = case
    checkpoint, _ = first(before, **base)
    with pytest.raises(UserError) as caught:
        Fitted(tmp_path, 2, checkpoint, callbacks=after(), **{**base, **changes})
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", QUICK)
def test_refused(name: str, first: Made, tmp_path: Path) -> None:
    check_refused(REFUSED[name], first, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [name for name in (*REFUSED, *ALLOWED) if name not in QUICK])
def test_every_other_row_that_is_refused(name: str, first: Made, tmp_path: Path) -> None:
    check_refused((REFUSED | ALLOWED)[name], first, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [name for name in ALLOWED if name not in ("model.shard_head", "model.compile")])
def test_what_may_be_allowed_is_then_used(name: str, first: Made, tmp_path: Path) -> None:
    _, _, (before, after), base, changes = ALLOWED[name]
    checkpoint, _ = first(before, **base)
    changes = {**base, **changes, "data.allow_inexact_resume": True}
    assert Fitted(tmp_path, 2, checkpoint, callbacks=after(), **changes).trainer.current_epoch == 2


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_another_machine_would_change_is_refused(name: str, first: Made, tmp_path: Path) -> None:
    content = torch.load(first()[0], weights_only=True)
    content["exact"][name] = ELSEWHERE[name]
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=re.escape(f"{name}: the checkpoint has {ELSEWHERE[name]!r}, this run")):
        Fitted(tmp_path, 2, tmp_path / "other.ckpt")


HARMLESS: dict[str, Any] = {
    "model.init_from": "no_such_file.ckpt",  # a resumed run does not read it
    "trainer.logger": lambda root: CSVLogger(root),
    "trainer.log_every_n_steps": 7,
    "trainer.limit_predict_batches": 1,
    "trainer.num_sanity_val_steps": 2,
    "trainer.enable_checkpointing": True,
    "trainer.enable_progress_bar": True,
    "trainer.enable_model_summary": True,
    "trainer.enable_autolog_hparams": False,
    "trainer.model_registry": "name",
    "trainer.inference_mode": False,
    "trainer.profiler": "simple",
    "trainer.detect_anomaly": True,
    "trainer.default_root_dir": lambda root: root / "other",
    "data.data_dir": "elsewhere",
    "data.eval_batch_size": 17,
}
NOT_HERE = {name for name in RESUMED_SETTINGS if name.startswith(("data.", "model.teacher"))}  # have tests of their own


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_is_bit_identical(name: str, first: Made, tmp_path: Path) -> None:
    checkpoint, whole = first()
    value = HARMLESS[name](tmp_path) if callable(HARMLESS[name]) else HARMLESS[name]
    assert Fitted(tmp_path, 2, checkpoint, **{name: value}).is_same_as(whole)


def applied(check: Callable[[Fitted, Fitted], bool], base: Any = None, stop: bool = False, **changes: Any) -> Any:
    return check, base or {}, stop, changes


def same(resumed: Fitted, whole: Fitted) -> bool:
    return resumed.is_same_as(whole)


def steps(number: int) -> Callable[[Fitted, Fitted], bool]:
    return lambda resumed, whole: resumed.step == number


APPLIED = {
    "trainer.max_epochs": applied(steps(6), **{"trainer.max_epochs": 3}),
    "trainer.max_steps": applied(steps(3), **{"trainer.max_steps": 3}),
    "trainer.min_epochs": applied(steps(6), stop=True, **{"trainer.max_epochs": 3, "trainer.min_epochs": 3}),
    "trainer.min_steps": applied(steps(5), stop=True, **{"trainer.max_epochs": 3, "trainer.min_steps": 5}),
    "trainer.max_time": applied(lambda resumed, _: resumed.step < 4, **{"trainer.max_time": {"microseconds": 1}}),
    "trainer.fast_dev_run": applied(steps(2), **{"trainer.fast_dev_run": 1}),
    "trainer.limit_train_batches": applied(steps(5), **{"trainer.limit_train_batches": 3}),
    "trainer.limit_val_batches": applied(
        lambda resumed, whole: same(resumed, whole) and resumed.watch.validated == 0, **{"trainer.limit_val_batches": 0}
    ),
    "trainer.limit_test_batches": applied(
        lambda resumed, whole: same(resumed, whole) and resumed.trainer.limit_test_batches == 2,
        **{"trainer.limit_test_batches": 2},
    ),
    "trainer.overfit_batches": applied(steps(3), **{"trainer.overfit_batches": 1}),
    "trainer.val_check_interval": applied(
        lambda resumed, whole: same(resumed, whole) and resumed.watch.validated == 2,
        **{"trainer.val_check_interval": 1},
    ),
    "trainer.check_val_every_n_epoch": applied(
        lambda resumed, whole: same(resumed, whole) and resumed.watch.validated == 0,
        **{"trainer.check_val_every_n_epoch": 3},
    ),
    "trainer.strategy": applied(same, **{"trainer.strategy": "auto"}),
    "trainer.deterministic": applied(
        lambda resumed, whole: same(resumed, whole) and torch.are_deterministic_algorithms_enabled(),
        **{"trainer.deterministic": True},
    ),
    "trainer.benchmark": applied(
        lambda resumed, whole: same(resumed, whole) and torch.backends.cudnn.benchmark, **{"trainer.benchmark": True}
    ),
    "trainer.use_distributed_sampler": applied(same, **{"trainer.use_distributed_sampler": True}),
    "trainer.sync_batchnorm": applied(same, **{"trainer.sync_batchnorm": True}),
    "trainer.reload_dataloaders_every_n_epochs": applied(same, **{"trainer.reload_dataloaders_every_n_epochs": 1}),
    "trainer.plugins": applied(same, **{"trainer.plugins": [LightningEnvironment()]}),
    "trainer.barebones": applied(same, **BAREBONES),
    "model.head_sample_rate": applied(
        lambda resumed, whole: resumed.module.head.sample_rate == 0.5 and not same(resumed, whole),  # type: ignore[union-attr]
        base=IN_BACKWARD,
        **{"model.head_sample_rate": 0.5},
    ),
}
SWITCHED = {
    "trainer.gradient_clip_val": ({}, 1e-3),
    "trainer.gradient_clip_algorithm": ({}, "value"),
    "model.penalty": ({}, 0.5),
}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", APPLIED)
def test_applied(name: str, first: Made, tmp_path: Path) -> None:
    check, base, stop, changes = APPLIED[name]
    checkpoint, whole = first(**base)
    try:
        resumed = Fitted(tmp_path, 2, checkpoint, callbacks=[Switch(stop=stop)], **{**base, **changes})
        assert check(resumed, whole)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SWITCHED)
def test_applied_as_if_it_had_been_changed_in_the_uninterrupted_run(name: str, first: Made, tmp_path: Path) -> None:
    base, value = SWITCHED[name]
    section, _, last = name.partition(".")

    def change(trainer: Any) -> None:
        setattr(trainer if section == "trainer" else trainer.lightning_module, last, value)

    checkpoint, whole = first(**base)
    switched = Fitted(tmp_path, 2, callbacks=[Switch(change)], **base)
    resumed = Fitted(tmp_path, 2, checkpoint, **{**base, name: value})
    assert resumed.is_same_as(switched)
    assert not resumed.is_same_as(whole)


def test_every_row_is_tried() -> None:
    rows = {*REFUSED, *ALLOWED, *ELSEWHERE, *HARMLESS, *NOT_HERE, *APPLIED, *SWITCHED}
    callbacks = {"trainer.callbacks", "trainer.callbacks.WeightAveraging.decay"}  # below
    assert set(RESUMED_SETTINGS) - {"model"} <= rows | callbacks
    for kind, tried in (("refused", REFUSED), ("unless allowed", ALLOWED | ELSEWHERE), ("harmless", HARMLESS)):
        assert {verdict(name) for name in tried} == {kind}
    assert {verdict(name) for name in (*APPLIED, *SWITCHED)} == {"applied"}


def test_every_setting_of_the_base_config_has_a_verdict_of_its_own() -> None:
    base = read_config(BASE_CONFIG)
    names = [f"{section}.{name}" for section in ("trainer", "model") for name in base[section]]
    assert not [name for name in (*names, "seed_everything") if name not in RESUMED_SETTINGS]


def test_the_readme_has_every_row() -> None:
    text = (Path(BASE_CONFIG).parent.parent / "cli/README.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.partition("## Settings on resume")[2].partition("\n## ")[0].splitlines()]
    listed = {name: row[2] for row in rows if len(row) == 4 for name in re.findall(r"`([\w.]+)`", row[1])}
    words = {
        "refused": "refused, with",
        "unless allowed": "refused, unless",
        "applied": "applied",
        "harmless": "harmless",
    }
    for name, kind in RESUMED_SETTINGS.items():
        short = name.removeprefix("trainer.").removeprefix("callbacks.")
        found = listed.get(name, listed.get(short))
        assert found is not None, name
        assert words[kind] in found, name


def test_arguments_of_callbacks_are_those_of_the_present_run(first: Made, tmp_path: Path) -> None:
    def callbacks(patience: int, top: int) -> list[Any]:
        return [
            EarlyStopping("val/loss", patience=patience),
            ModelCheckpoint(tmp_path / "kept", monitor="val/loss", save_top_k=top),
        ]

    checkpoint, _ = first(lambda: callbacks(1, 1))
    resumed = Fitted(tmp_path, 2, checkpoint, callbacks=callbacks(7, 2))
    stopping, keeping = (
        next(each for each in resumed.trainer.callbacks if isinstance(each, kind))
        for kind in (EarlyStopping, ModelCheckpoint)
    )
    assert (stopping.patience, keeping.save_top_k) == (7, 2)
    assert torch.isfinite(stopping.best_score), "the state itself is restored"


def test_a_new_decay_is_used_from_then_on(first: Made, tmp_path: Path) -> None:
    checkpoint, whole = first(lambda: [ExponentialMovingAverage(0.2)])
    resumed = Fitted(tmp_path, 2, checkpoint, callbacks=[ExponentialMovingAverage(0.0)])
    # Without memory the average is the weights that are trained, which do not depend on it
    assert resumed.is_same_as(Fitted(tmp_path, 2))
    assert not resumed.is_same_as(whole)


def test_a_best_score_by_another_monitor_is_forgotten(first: Made, tmp_path: Path) -> None:
    Fitted(tmp_path, 1, callbacks=[RunCheckpoint(monitor="val/accuracy")])
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    by_loss = RunCheckpoint(monitor="val/loss", mode="min")
    resumed = Fitted(tmp_path, 2, checkpoint, callbacks=[by_loss])
    assert by_loss.best_score == pytest.approx(float(resumed.trainer.callback_metrics["val/loss"]))


def test_a_schedule_that_has_ended_at_zero_is_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ends = {"model.lr_schedule": partial(lr_scheduler.PolynomialLR, total_iters=1)}
    Fitted(tmp_path, 1, callbacks=[Switch(save=tmp_path / "1.ckpt")], **ends)
    Fitted(tmp_path, 2, tmp_path / "1.ckpt", **ends)
    assert "learning rate is 0" in caplog.text
