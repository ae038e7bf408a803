from pathlib import Path
from typing import Any

import pytest
import torch

from arcface_pl import ArcFaceHead, ArcFaceModule, Recognizer, SimpleCNN


def write_checkpoint(path: Path, module: ArcFaceModule, **more: Any) -> Path:
    """What the Trainer writes, as far as use looks at it."""
    module.backbone.eval()
    classes = [f"class {index}" for index in range(module.head.num_classes)]
    facts = {"class_names": classes, "normalization": ((0.2,), (0.4,)), "dataset_name": "fashion_mnist"}
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "data": facts, **more}
    torch.save(content, path)
    return path


@pytest.fixture
def module() -> ArcFaceModule:
    torch.manual_seed(0)
    return ArcFaceModule(SimpleCNN(16), ArcFaceHead(16, 4)).eval()


@pytest.fixture
def checkpoint(tmp_path: Path, module: ArcFaceModule) -> Path:
    return write_checkpoint(tmp_path / "model.ckpt", module)


@pytest.fixture
def recognizer(checkpoint: Path) -> Recognizer:
    return Recognizer.from_checkpoint(checkpoint)


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (12, 1, 28, 28), dtype=torch.uint8, generator=generator)
