from pathlib import Path

import pytest
import torch

from arcface_pl import MNISTDataModule
from arcface_pl.cli import main


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the digits 0 to 7: 8 and 9 are what it has never seen."""
    folder = tmp_path_factory.mktemp("run")
    flags = "--data.dataset digits --max_epochs 4 --accelerator cpu --trainer.logger false --enable_progress_bar false"
    held_out = ["--data.held_out_classes", "[8, 9]"]
    main(["fit", *flags.split(), *held_out, "--default_root_dir", str(folder)])
    return next(folder.rglob("best.ckpt"))


@pytest.fixture(scope="session")
def digits() -> dict[int, torch.Tensor]:
    """Test images, (N, 28, 28) uint8, of each digit, black on white as a person would draw."""
    data = MNISTDataModule(dataset="digits")
    data.prepare_data()
    data.setup("test")
    images, labels = data.test_dataloader().data
    return {label: 255 - images[labels == label, 0] for label in range(10)}
