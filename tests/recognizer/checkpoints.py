"""Checkpoints without a training run."""

from pathlib import Path
from typing import Any

import torch

from arcface_pl import ArcFaceModule


def write_checkpoint(path: Path, module: ArcFaceModule, **more: Any) -> Path:
    """What the Trainer writes, as far as use looks at it."""
    module.backbone.eval()
    classes = [f"class {index}" for index in range(module.head.num_classes)]
    facts = {"class_names": classes, "normalization": ((0.2,), (0.4,)), "dataset_name": "fashion_mnist"}
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "data": facts, **more}
    torch.save(content, path)
    return path
