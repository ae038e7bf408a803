from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint

from arcface_pl import ArcFaceHead, ArcFaceModule, Recognizer, SimpleCNN


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
