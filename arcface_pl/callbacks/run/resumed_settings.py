"""What another value of a setting does when training is resumed: the table, and how settings are recorded."""

import inspect
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BaseFinetuning, StochasticWeightAveraging
from torch import nn
from torch.optim import SGD

from arcface_pl.checkpoints.specs import PLAIN, spec_of

# By section. Not read in a resumed run: model.init_from. model.teacher is the file's place; its content is compared
# (sha256). model.frozen: the parameters that are frozen before training begins. data.check_files is harmless as long as
# the same files are read, which is compared.
_VERDICTS = {
    "refused": {
        "model": "backbone head optimizer lr_schedule head_lr update_head_in_backward freeze trainable_blocks "
        "unfreeze_at_epoch backbone_lr_factor frozen extra_losses teacher.sha256 teacher_weight",
        "trainer.callbacks": "BaseFinetuning StochasticWeightAveraging WeightAveraging",
    },
    "unless allowed": {
        "model": "shard_head channels_last num_threads compile matmul_precision",
        "trainer": "accelerator accumulate_grad_batches devices num_nodes precision",
        "trainer.callbacks": "GradientAccumulationScheduler",
    },
    "applied": {
        "model": "head_sample_rate",
        "trainer": "callbacks max_epochs min_epochs max_steps min_steps max_time fast_dev_run limit_train_batches "
        "limit_val_batches limit_test_batches overfit_batches val_check_interval check_val_every_n_epoch "
        "gradient_clip_val gradient_clip_algorithm strategy deterministic benchmark use_distributed_sampler "
        "sync_batchnorm reload_dataloaders_every_n_epochs plugins barebones",
        "trainer.callbacks": "WeightAveraging.decay",
    },
    "harmless": {
        "model": "init_from teacher",
        "trainer": "logger log_every_n_steps limit_predict_batches num_sanity_val_steps enable_checkpointing "
        "enable_progress_bar enable_model_summary enable_autolog_hparams model_registry inference_mode profiler "
        "detect_anomaly default_root_dir",
        "data": "data_dir eval_batch_size num_workers check_files skip_unreadable resident role_column "
        "allow_inexact_resume",
    },
}
RESUMED_SETTINGS = {
    "model": "applied",  # what a subclass takes beyond the settings below
    **dict.fromkeys(("data", "seed_everything", "torch"), "unless allowed"),
    **{
        f"{section}.{name}": verdict
        for verdict, sections in _VERDICTS.items()
        for section, names in sections.items()
        for name in names.split()
    },
}
"""Full name of a setting, which stands for all below it that have no row of their own, and what another value does.

refused: always, with both values; unless allowed: refused without ``allow_inexact_resume``; applied: used from then on;
harmless: the weights do not depend on it.
"""

_MISSING = object()
FINE_TUNING = ("trainable_blocks", "unfreeze_at_epoch", "backbone_lr_factor")
# What moves while a schedule runs, or follows from another setting
_MOVING = {"last_epoch", "base_lrs", "lr_lambdas", "_step_count", "_last_lr", "_is_initial", "total_steps"}
_MOVING |= {"_get_lr_called_within_step", "optimizer", "params"}


def verdict(name: str) -> str:
    """Return what another value of a setting does; one without a row is refused unless that is allowed."""
    while name not in RESUMED_SETTINGS and "." in name:
        name = name.rpartition(".")[0]
    return RESUMED_SETTINGS.get(name, "unless allowed")


def differences(saved: Mapping[str, Any], present: Mapping[str, Any], reason: str) -> list[str]:
    """Return one phrase, with both values, for each setting with this verdict that differs."""
    return [
        f"{name}: the checkpoint has {saved.get(name)!r}, this run {present.get(name)!r}"
        for name in {**saved, **present}
        if saved.get(name) != present.get(name) and verdict(name) == reason
    ]


def network_settings(module: Any) -> dict[str, Any]:
    """Return class and arguments of backbone, head and extra losses by full name, and the teacher's hash.

    They are those of the constructor: sharding changes a head's class.
    """
    found: dict[str, Any] = {}
    for role in ("backbone", "head"):
        network = getattr(module, role, None)
        if isinstance(network, nn.Module):
            found |= _flat(f"model.{role}", getattr(module, "specs", {}).get(role) or spec_of(network))
    if (extra := getattr(module, "extra_losses", None)) is not None:
        found |= _nested("model.extra_losses", extra.described())
    if (distillation := getattr(module, "distillation", None)) is not None:
        found |= {"model.teacher.sha256": distillation.fingerprint, "model.teacher_weight": module.teacher_weight}
    return found


def with_new_arguments(saved: Mapping[str, Any], module: Any) -> dict[str, Any]:
    """Return saved settings, and defaults of what backbone and head have taken since an earlier release saved them."""
    found, present = dict(saved), network_settings(module)
    for role in ("backbone", "head"):
        network = getattr(module, role, None)
        place = f"model.{role}"
        if isinstance(network, nn.Module) and place in present and saved.get(place) == present[place]:
            for name, parameter in inspect.signature(type(network)).parameters.items():
                if f"{place}.{name}" in present and parameter.default is not parameter.empty:
                    found.setdefault(f"{place}.{name}", parameter.default)
    return found


def training_settings(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
    """Return the settings of optimizers, schedules and callbacks by full name, before training has changed them."""
    found: dict[str, Any] = {}
    for name in ("head_lr", *FINE_TUNING):
        if hasattr(module, name):
            found[f"model.{name}"] = getattr(module, name)
    if hasattr(module, "update_head_in_backward"):
        found["model.update_head_in_backward"] = _in_backward(trainer, module.update_head_in_backward)
    found["model.freeze"] = getattr(module, "frozen_parts", None)
    for number, optimizer in enumerate(trainer.optimizers):
        place = f"model.optimizer{f'.{number}' if number else ''}"
        found |= _flat(place, {"name": type(optimizer).__name__, "kwargs": _plain_items(optimizer.defaults)})
        if not _has(trainer, BaseFinetuning):  # it rebuilds the groups
            found |= _groups(place, optimizer, getattr(module, "head_lr", None))
    if trainer.optimizers:
        found["model.lr_schedule"] = None
    for number, config in enumerate(trainer.lr_scheduler_configs):
        place = f"model.lr_schedule{f'.{number}' if number else ''}"
        kwargs = _schedule(config.scheduler, getattr(module, "lr_schedule", None))
        # An ArcFaceModule's plateau waits for validations, as often as the present Trainer makes them
        waits = config.reduce_on_plateau and hasattr(module, "lr_schedule")
        kwargs |= {
            "interval": config.interval,
            "frequency": 1 if waits else config.frequency,
            "monitor": config.monitor,
        }
        found |= _flat(place, {"name": type(config.scheduler).__name__, "kwargs": kwargs})
    frozen = [name for name, weight in module.named_parameters() if not weight.requires_grad]
    return found | {"model.frozen": frozen} | callback_arguments(trainer)


def _in_backward(trainer: L.Trainer, setting: Any) -> bool | str:
    """Return whether class centers move in the backward pass: True for by SGD, or the name of the optimizer."""
    if setting is True and trainer.optimizers and not isinstance(trainer.optimizers[0], SGD):
        return type(trainer.optimizers[0]).__name__
    return bool(setting)


def callback_arguments(trainer: L.Trainer) -> dict[str, Any]:
    """Return the constructor arguments of callbacks by full name, as far as attributes keep them as plain values."""
    found: dict[str, Any] = {}
    for place, callback in callbacks_by_name(trainer).items():
        if place in RESUMED_SETTINGS:
            found[place] = True  # whether there is one at all
        kept = {name: getattr(callback, attribute) for name, attribute in argument_attributes(callback).items()}
        found |= {f"{place}.{name}": value for name, value in _plain_items(kept).items()}
    return found


def callbacks_by_name(trainer: L.Trainer) -> dict[str, L.Callback]:
    """Return the callbacks by full name: of the base class that has a row in the table, else of their class."""
    found: dict[str, L.Callback] = {}
    seen: Counter[str] = Counter()
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        names = [f"trainer.callbacks.{cls.__name__}" for cls in type(callback).__mro__]
        name = next((each for each in names if each in RESUMED_SETTINGS), names[0])
        seen[name] += 1
        found[name if seen[name] == 1 else f"{name}.{seen[name]}"] = callback
    return found


def argument_attributes(callback: L.Callback) -> dict[str, str]:
    """Return the attribute that keeps each constructor argument: of its name, or with an underscore before it."""
    kept = vars(callback)
    names = {name: [each for each in (name, f"_{name}") if each in kept] for name in _parameters(callback)}
    return {name: attributes[0] for name, attributes in names.items() if attributes}


def swa_took_over(trainer: L.Trainer) -> bool:
    """Return whether weight averaging has removed the schedule, to bring its own."""
    return _has(trainer, StochasticWeightAveraging) and not trainer.lr_scheduler_configs


def has_other_data(datamodule: Any, checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint's scores are of other images or classes than a data module's, which is set up."""
    facts, present = checkpoint.get("data") or {}, type(datamodule)
    if not facts or datamodule is None:
        return False
    if facts.get("name") != present.__name__:
        return True
    saved = checkpoint.get(present.__qualname__)
    if isinstance(saved, Mapping) and "data" in saved:
        now = datamodule.state_dict()
        return any(saved.get(name) != now.get(name) for name in ("data", "classes", "held_out_classes"))
    # Any other class's: its arguments are all that is known
    given = _plain_items(getattr(datamodule, "hparams", {}))
    return any(name in given and given[name] != value for name, value in (facts.get("kwargs") or {}).items())


def forget_scores(checkpoint: dict[str, Any]) -> None:
    """Drop the scores that callbacks and schedules remember, which were measured on other data."""
    remembered = {"best_score", "best_model_score", "epochs"}
    states = checkpoint.get("callbacks") or {}
    checkpoint["callbacks"] = {key: state for key, state in states.items() if not remembered & set(state)}
    for state in checkpoint.get("lr_schedulers") or []:
        if "mode_worse" in state:  # ReduceLROnPlateau
            state.update(best=state["mode_worse"], num_bad_epochs=0)


def _has(trainer: Any, kind: type) -> bool:
    return any(isinstance(each, kind) for each in trainer.callbacks)


def _groups(place: str, optimizer: Any, head_lr: float | None) -> dict[str, Any]:
    """Return what a parameter group has that the optimizer's defaults have not."""
    found: dict[str, Any] = {}
    for number, group in enumerate(optimizer.param_groups):
        name = group.get("name", number)
        options = {**group, "lr": group.get("initial_lr", group["lr"])}
        for moving in ("params", "name", "initial_lr", "momentum", "betas"):
            options.pop(moving, None)
        if name in ("head", "extra_losses") and head_lr is not None:
            options.pop("lr")
        changed = {key: value for key, value in options.items() if value != optimizer.defaults.get(key, _MISSING)}
        found |= {f"{place}.{name}.{key}": value for key, value in _plain_items(changed).items()}
    return found


def _schedule(schedule: Any, factory: Any) -> dict[str, Any]:
    """Return the arguments of a schedule: as they were given, or else what it made of them."""
    if isinstance(factory, partial) and factory.keywords:
        given: Mapping[str, Any] = factory.keywords
    else:
        given = schedule.state_dict()
    own = {name: value for name, value in vars(schedule).items() if name in _parameters(schedule)}
    return _plain_items({name: value for name, value in {**own, **given}.items() if name not in _MOVING})


def _parameters(made: Any) -> set[str]:
    return set(inspect.signature(type(made).__init__).parameters) - {"self", "args", "kwargs"}


def _plain_items(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: _plain(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not _MISSING}


def _plain(value: Any) -> Any:
    """Reduce a value to what a checkpoint may hold; `_MISSING` if it is something else."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, Counter):
        return sorted(value.elements())
    if isinstance(value, Mapping):
        return _plain_items({str(name): each for name, each in value.items()})
    if isinstance(value, list | tuple | set):
        items = [_plain(each) for each in value]
        return _MISSING if _MISSING in items else items
    return _MISSING


def _flat(place: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {place: spec["name"], **{f"{place}.{name}": value for name, value in spec["kwargs"].items()}}


def _nested(place: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings by full name."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _nested(f"{place}.{name}", value) if isinstance(value, Mapping) else {f"{place}.{name}": value}
    return found
