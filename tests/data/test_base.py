"""`ImageDataModule` as a stranger extends it: the example of the room's README, in one file."""

import gc
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import arcface_pl.data
from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN
from arcface_pl.cli import main
from arcface_pl.data import DataError, ImageFolderDataModule, LabelledImages, MNISTDataModule, PairsDataModule
from arcface_pl.data.bounds import LARGEST_BATCH

README = Path(arcface_pl.data.__file__).with_name("README.md").read_text(encoding="utf-8")
EXAMPLE = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]


@pytest.fixture
def bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "bars.py").write_text(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = ModuleType("bars_here")
    exec(compile(EXAMPLE, "bars.py", "exec"), module.__dict__)
    return module.BarsDataModule


def test_it_gives_batches_of_every_part_without_a_trainer(bars: Any) -> None:
    data = bars(num_images=300)
    data.prepare_data()
    data.setup("fit")
    assert (data.num_train, data.num_val, data.num_test, data.num_classes) == (216, 24, 60, 3)
    assert data.class_counts == [72, 72, 72]
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype, labels.dtype) == ((32, 1, 28, 28), torch.float32, torch.int64)
    assert data.labels_checked
    assert {"num_images": 300, "batch_size": 32, "val_fraction": 0.1}.items() <= dict(data.hparams).items()


@pytest.mark.parametrize(
    "build",
    [
        lambda: MNISTDataModule(dataset="digits"),
        lambda: PairsDataModule(pairs_file="pairs.txt"),
        lambda: ArcFaceModule(FastCNN(4, width=2), ArcFaceHead(4, 2)),
    ],
)
def test_what_is_local_to_a_function_that_builds_one_ends_with_it(build: Callable[[], Any]) -> None:
    """Images and loaders of a function's earlier lines are freed without the garbage collector."""

    def function() -> weakref.ref:
        local = torch.zeros(1)
        build()
        return weakref.ref(local)

    gc.disable()
    try:
        assert function()() is None
    finally:
        gc.enable()


def test_it_trains_from_the_command_line(bars: Any, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--fast_dev_run", "true", "--accelerator", "cpu", "--enable_progress_bar", "false"]
    main(["fit", "--data", "bars.BarsDataModule", "--data.num_images", "150", *quick])
    assert "108 train" in " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize("wrong", [-1, 3])
def test_labels_are_checked_while_loading(bars: Any, wrong: int) -> None:
    class Wrong(bars):
        def load_parts(self) -> Any:
            parts = super().load_parts()
            labels = parts.train.labels.clone()
            labels[5] = wrong
            return parts._replace(train=LabelledImages(parts.train.images, labels))

    with pytest.raises(DataError, match=f"labels of the train images: got {wrong}; expected 0 to 2"):
        Wrong(num_images=60).setup("fit")


@pytest.mark.parametrize("size", [0, True, LARGEST_BATCH + 1, 10**30])
def test_a_batch_size_that_no_batch_can_have(bars: Any, size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size.*{size}"):
        bars(batch_size=size)


@pytest.mark.parametrize("kind", [MNISTDataModule, ImageFolderDataModule])
def test_any_batch_is_moved_to_the_device(kind: Any, tmp_path: Path) -> None:
    """Lightning's model summary, for one, moves images alone."""
    data = kind(str(tmp_path))
    images, labels = torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    for batch in ([images], [images, labels]):
        moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
        assert [each.device.type for each in moved] == ["meta"] * len(batch)
    assert data.transfer_batch_to_device(images, torch.device("meta"), 0).is_meta
