"""Numbers printed as counts are counts, whatever limits the batches of a split."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from arcface_pl import MNISTDataModule
from arcface_pl.cli import main

pytestmark = pytest.mark.usefixtures("in_folder")

FIT = [
    "fit", "--data.dataset", "digits", "--max_epochs", "1", "--limit_train_batches", "2",
    "--enable_progress_bar", "false",
    "--model.backbone", "FastCNN", "--model.backbone.width", "4", "--data.eval_batch_size", "50",
    "--trainer.callbacks", "null", "--trainer.callbacks+=RunCheckpoint",
]  # fmt: skip
RESULTS = Path("lightning_logs/version_0/results.json")


class Repeats(MNISTDataModule):
    """Yields the test images one and a half times, and claims another size."""

    def test_dataloader(self) -> Any:
        images, labels = (torch.cat(each) for each in zip(*super().test_dataloader(), strict=True))
        whole = TensorDataset(torch.cat([images, images[:180]]), torch.cat([labels, labels[:180]]))
        return DataLoader(whole, batch_size=50)


def check(counts: dict[str, int], printed: str) -> None:
    results = json.loads(RESULTS.read_text())
    for split, count in counts.items():
        right = results[f"{split}/num_correct"]
        assert results[f"{split}/num_images"] == count
        assert results[f"{split}/accuracy"] == pytest.approx(right / count, abs=1e-7)  # seven digits
        assert re.search(rf"{'validation' if split == 'val' else 'test'} +\({count:,}\)", printed), printed
        assert f"({right:,})" in printed


@pytest.mark.parametrize(
    ("flags", "counts"),
    [  # the package's loaders make batches of even size: 3 x 48 and 8 x 45, the last of 44
        ("", {"val": 144, "test": 359}),
        ("--limit_val_batches 2 --limit_test_batches 1", {"val": 96, "test": 45}),
        ("--limit_val_batches 0.67 --limit_test_batches 0.5", {"val": 96, "test": 180}),
        ("--data.watch_test true --limit_val_batches 1 --limit_test_batches 3", {"test": 135}),
        (f"--data {__name__}.Repeats", {"test": 539}),
    ],
)
def test_counts(flags: str, counts: dict[str, int], capsys: pytest.CaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    main([*FIT, *flags.split()])
    check(counts, capsys.readouterr().out)


def test_counts_of_test_and_validate(capsys: pytest.CaptureFixture) -> None:
    main(FIT)
    capsys.readouterr()
    for command, split, count in (("validate", "val", 29), ("test", "test", 30)):  # of five and twelve even batches
        limit = f"--limit_{split}_batches"
        main([command, "--ckpt_path", "last", limit, "1", "--data.eval_batch_size", "30"])
        results = json.loads(RESULTS.with_name(f"{command}.json").read_text())
        assert results[f"{split}/num_images"] == count
        assert f"{'validation' if split == 'val' else 'test'} ({count})" in capsys.readouterr().out
