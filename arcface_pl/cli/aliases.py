"""What people type for a setting because another program calls it that, and what it is called here."""

import re
from functools import cache
from typing import Any

from arcface_pl.cli.config import BASE_CONFIG, is_class, read_config

# What other programs call a setting, without dashes and underscores; names that base.yaml has need no entry
SYNONYMS = {
    "accum": "accumulate_grad_batches",
    "accumulationsteps": "accumulate_grad_batches",
    "amp": "precision bf16-mixed",
    "arch": "model.backbone",
    "augmentation": "data.augment",
    "backbone": "model.backbone",
    "bf16": "precision bf16-mixed",
    "bs": "data.batch_size",
    "checkpoint": "ckpt_path",
    "ckpt": "ckpt_path",
    "datadir": "data.data_dir",
    "datapath": "data.data_dir",
    "device": "accelerator",
    "dim": "model.backbone.embedding_dim",
    "distributed": "strategy ddp",
    "earlystopping": "trainer.callbacks+=EarlyStopping",
    "embeddingsize": "model.backbone.embedding_dim",
    "epochs": "max_epochs",
    "fp16": "precision 16-mixed",
    "gamma": "model.lr_schedule.gamma",
    "gpu": "accelerator gpu",
    "gpus": "devices",
    "gradaccum": "accumulate_grad_batches",
    "gradclip": "gradient_clip_val",
    "gradientaccumulationsteps": "accumulate_grad_batches",
    "head": "model.head",
    "imagesize": "data.image_size",
    "initlr": "model.optimizer.lr",
    "iters": "max_steps",
    "learningrate": "model.optimizer.lr",
    "load": "ckpt_path",
    "logdir": "default_root_dir",
    "loss": "model.head",
    "m": "model.head.margin",
    "maxepoch": "max_epochs",
    "maxgradnorm": "gradient_clip_val",
    "momentum": "model.optimizer.momentum",
    "network": "model.backbone",
    "nepochs": "max_epochs",
    "ngpus": "devices",
    "nodes": "num_nodes",
    "nproc": "devices",
    "numepochs": "max_epochs",
    "numgpus": "devices",
    "numsteps": "max_steps",
    "numtrainepochs": "max_epochs",
    "optim": "model.optimizer",
    "optimizername": "model.optimizer",
    "out": "default_root_dir",
    "outdir": "default_root_dir",
    "output": "default_root_dir",
    "outputdir": "default_root_dir",
    "patience": "trainer.callbacks+=EarlyStopping",
    "perdevicetrainbatchsize": "data.batch_size",
    "pretrained": "ckpt_path",
    "randomseed": "seed_everything",
    "resume": "ckpt_path last",
    "resumefrom": "ckpt_path",
    "resumefromcheckpoint": "ckpt_path",
    "root": "data.root",
    "s": "model.head.scale",
    "savedir": "default_root_dir",
    "schedule": "model.lr_schedule",
    "scheduler": "model.lr_schedule",
    "seed": "seed_everything",
    "steps": "max_steps",
    "threads": "model.num_threads",
    "trainbatchsize": "data.batch_size",
    "warmup": "model.lr_schedule.warmup_fraction",
    "wd": "model.optimizer.weight_decay",
    "weightdecay": "model.optimizer.weight_decay",
    "weights": "ckpt_path",
    "workers": "data.num_workers",
    "numworkers": "data.num_workers",
}


def meant_by(name: str) -> str:
    """Return the flag that was meant, without dashes; "" if none is known.

    Args:
        name: The last part of a setting's name, such as lr, batch-size or epochs.
    """
    return SYNONYMS.get(_bare(name)) or _last_parts().get(_bare(name), "")


@cache
def _last_parts() -> dict[str, str]:
    """Return the full names of base.yaml's settings by their last part; of several the first counts."""
    return {
        _bare(full.rpartition(".")[2]): full.removeprefix("trainer.")
        for full in reversed(_names("", read_config(BASE_CONFIG)))
    }


def _bare(name: str) -> str:
    return re.sub("[-_]", "", name).lower()


def _names(place: str, node: Any) -> list[str]:
    if not isinstance(node, dict):
        return [place]
    node = node.get("init_args", {}) if is_class(node) else node
    return [name for key, value in node.items() for name in _names(f"{place}.{key}" if place else key, value)]
