"""What people type for a setting because another program calls it that, and what it is called here."""

import re
from functools import cache

from arcface_pl.cli.config import BASE_CONFIG, read_config
from arcface_pl.cli.layers import each_setting

# What other programs call a setting, without dashes and underscores; names that base.yaml has need no entry
_NAMES = {
    "accelerator": "device",
    "accelerator gpu": "gpu",
    "accumulate_grad_batches": "accum accumulationsteps gradaccum gradientaccumulationsteps",
    "ckpt_path": "checkpoint ckpt load pretrained resumefrom resumefromcheckpoint weights",
    "ckpt_path last": "resume",
    "data.augment": "augmentation",
    "data.batch_size": "bs perdevicetrainbatchsize trainbatchsize",
    "data.data_dir": "datapath",
    "data.image_size": "imagesize",
    "data.num_workers": "workers numworkers",
    "data.root": "root",
    "default_root_dir": "logdir out outdir output outputdir savedir",
    "devices": "gpus ngpus nproc numgpus",
    "gradient_clip_val": "gradclip maxgradnorm",
    "max_epochs": "epochs maxepoch nepochs numepochs numtrainepochs",
    "max_steps": "iters numsteps steps",
    "model.backbone": "arch backbone network",
    "model.backbone.embedding_dim": "dim embeddingsize",
    "model.head": "head loss",
    "model.head.margin": "m",
    "model.head.scale": "s",
    "model.lr_schedule": "schedule scheduler",
    "model.lr_schedule.gamma": "gamma",
    "model.lr_schedule.warmup_fraction": "warmup",
    "model.num_threads": "threads",
    "model.optimizer": "optim optimizername",
    "model.optimizer.lr": "initlr learningrate",
    "model.optimizer.momentum": "momentum",
    "model.optimizer.weight_decay": "wd weightdecay",
    "num_nodes": "nodes",
    "precision 16-mixed": "fp16",
    "precision bf16-mixed": "amp bf16",
    "seed_everything": "randomseed seed",
    "strategy ddp": "distributed",
    "trainer.callbacks+=EarlyStopping": "earlystopping patience",
}
SYNONYMS = {each: setting for setting, names in _NAMES.items() for each in names.split()}


def meant_by(name: str) -> str:
    """Return the flag that was meant, without dashes; "" if none is known.

    Args:
        name: The last part of a setting's name, such as lr, batch-size or epochs.
    """
    return SYNONYMS.get(_bare(name)) or _last_parts().get(_bare(name), "")


@cache
def _last_parts() -> dict[str, str]:
    """Return the full names of base.yaml's settings by their last part; of several the first counts."""
    names = [name for name, _ in each_setting(read_config(BASE_CONFIG))]
    return {_bare(full.rpartition(".")[2]): full.removeprefix("trainer.") for full in reversed(names)}


def _bare(name: str) -> str:
    return re.sub("[-_]", "", name).lower()
