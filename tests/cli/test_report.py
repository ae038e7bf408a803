"""What a run prints and leaves: counts that are exact, modules and data of the user's, text that is safe to show."""

import io
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console

from arcface_pl import MNISTDataModule
from arcface_pl.cli import report


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(autouse=True)
def everything_is_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = {"arcface-pl", "tensorboard", "wandb"}
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name in tools else None)


def printed(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_an_accuracy_is_its_count_again() -> None:
    generator = np.random.default_rng(0)
    totals = generator.integers(1, 5_000_000, 2000)
    for total, right in zip(totals, generator.integers(0, totals + 1), strict=True):
        given = float(np.float32(right / total))
        value = report.exact({"test/accuracy": given, "test/loss": given})
        assert round(value["test/accuracy"] * total) == right
        assert value["test/loss"] == given
    assert report.exact({"val/accuracy": float(np.float32(0.9914))}) == {"val/accuracy": 0.9914}


def test_the_table_has_a_column_per_split_and_a_row_per_measure(console: Console) -> None:
    scores = {"val/accuracy": 0.5, "test/accuracy": 0.75, "test/loss": 1.25, "test/angle/target_mean": 12.34}
    counts = {"test/num_images": 8, "test/num_correct": 6}
    report.table(console, {"dataset": "mine", **scores, **counts, "val/zebra": 0.1, "val/ant": 0.2})
    title, _, header, _, *rows, _ = printed(console).splitlines()
    assert title.strip() == "mine"
    assert header.split() == ["┃", "┃", "validation", "┃", "test", "(8)", "┃"]
    cells = [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]
    assert cells == [
        ["accuracy", "50.00%", "75.00% (6)"],
        ["loss", "", "1.250000"],
        ["mean angle to the target class", "", "12.3°"],
        ["ant", "0.200000", ""],
        ["zebra", "0.100000", ""],
    ]


def test_one_split_alone_has_no_empty_column(console: Console) -> None:
    report.table(console, {"dataset": "d", "test/loss": 1.0})
    assert "validation" not in printed(console)


def test_names_from_outside_are_shown_as_they_are(console: Console) -> None:
    results = {"dataset": "[red]\x1b[2J", "test/[bold]loss\n": 1.0, "fit_seconds": 1.0, "checkpoint": None}
    report.conclude(console, results, Path("[blue]"), [], lambda: None)
    assert "[red]\\x1b[2J" in printed(console)
    assert "[bold]loss\\n" in printed(console)
    assert "[blue]/results.json" in printed(console)


def test_counts_are_whole_numbers_of_the_last_evaluation() -> None:
    metrics = {
        "test/num_images": torch.tensor(8.0),
        "test/num_correct": torch.tensor(6.0),
        "test/loss": torch.tensor(1.5),
    }
    trainer: Any = SimpleNamespace(callback_metrics=metrics)
    counts = report.counted(trainer)
    assert counts == {"test/num_images": 8, "test/num_correct": 6}
    assert all(isinstance(count, int) for count in counts.values())


def test_a_users_own_module_and_data_are_announced_with_what_is_known(console: Console, make_trainer: Any) -> None:
    report.announce(console, make_trainer(), BoringModel(), BoringDataModule(), None, None)
    text = printed(console)
    assert "BoringDataModule: number of images not known (batch size per process: not known)" in text
    assert "BoringModel" in text
    assert " 66 " in text  # 32 x 2 weights and 2 biases
    assert "nothing is saved" in text
    assert "resumes" not in text


def test_our_own_are_announced_in_full(
    console: Console, make_trainer: Any, tiny_module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    data, module = MNISTDataModule(dataset="digits", held_out_classes=[3, 4]), tiny_module()
    (tmp_path / "last.ckpt").touch()
    report.announce(console, make_trainer(), module, data, tmp_path / "runs" / "[one]", Path("last.ckpt"))
    text = printed(console)
    assert f"{data.num_train:,} train, {data.num_val:,} val, {data.num_test:,} test" in text
    assert "8 classes: 0, 1, 2, 5" in text
    assert "2 held out: 3, 4" in text
    assert "FastCNN -> 16 -> ArcFaceHead (margin 0.5, scale 30.0)" in text
    sizes = [sum(weight.numel() for weight in part.parameters()) for part in (module.backbone, module.head)]
    assert f"{sum(sizes):,} ({sizes[0]:,} + {sizes[1]:,} in the head)" in text
    assert "runs/[one]" in text
    assert "last.ckpt" in text


def test_the_closing_lines_name_the_next_commands(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = {
        "dataset": "digits",
        "test/accuracy": 0.5,
        "fit_seconds": 2.0,
        "checkpoint": "runs/v/checkpoints/best.ckpt",
    }
    report.conclude(
        console, results, Path("runs/v"), [CSVLogger("runs", name="", version="v")], lambda: Path("runs/v/curves.png")
    )
    text = printed(console)
    assert "These are scikit-learn's digits, not MNIST." in text
    assert "curves       runs/v/curves.png\n" in text
    assert "metrics      runs/v/metrics.csv\n" in text
    assert "arcface-pl predict --ckpt_path runs/v/checkpoints/best.ckpt" in text
    checkpoint = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    monkeypatch.chdir(tmp_path)
    report.conclude(console, results | {"checkpoint": str(checkpoint)}, checkpoint.parents[1], [], lambda: None)
    assert printed(console).splitlines()[-1] == "predictions  arcface-pl predict --ckpt_path best"  # fits 80 columns
    (tmp_path / "lightning_logs" / "version_1" / "checkpoints").mkdir(parents=True)
    (tmp_path / "lightning_logs" / "version_1" / "checkpoints" / "last.ckpt").touch()
    report.conclude(console, results | {"checkpoint": str(checkpoint)}, checkpoint.parents[1], [], lambda: None)
    assert printed(console).splitlines()[-1].endswith("version_0/checkpoints/best.ckpt")  # now best is another's
    other = Console(file=io.StringIO(), width=200)
    report.conclude(
        other,
        {"dataset": "x", "test/loss": 0.5, "fit_seconds": 2.0, "checkpoint": "c"},
        Path("runs/v"),
        [],
        lambda: None,
    )
    assert "arcface-pl predict" not in printed(other)  # a module whose answers it may not know
    assert "digits" not in printed(other)


class Offline:
    """wandb's run without a server, which warns when it is asked for its address."""

    offline = True
    dir = "wandb/offline-run-1/files"

    @property
    def url(self) -> str:
        raise AssertionError("asked for an address")


class WandbLogger:
    experiment = Offline()


def test_what_wrote_the_dashboards_says_how_to_look_at_them(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = {"dataset": "x", "test/loss": 0.5, "fit_seconds": 2.0, "checkpoint": "c"}
    folder = tmp_path / "runs" / "v"
    loggers = [TensorBoardLogger("runs", name="", version="v"), WandbLogger()]
    report.conclude(console, results, folder, loggers, lambda: None, has_overview=True)
    lines = printed(console).splitlines()
    assert lines[-3:] == [
        "dashboards   tensorboard --logdir runs",
        "             http://localhost:6006/#custom_scalars (training and validation)",
        "dashboards   wandb sync wandb/offline-run-1",
    ]
    assert "trained in 2.0 s; numbers in runs/v/results.json" in lines
    report.conclude(console, results, folder, loggers, lambda: None)
    assert printed(console).count("custom_scalars") == 1
    monkeypatch.setattr("shutil.which", lambda name: None)  # a virtual environment that is not activated
    monkeypatch.setattr("sys.orig_argv", ["venv/bin/python"])
    report.conclude(console, results, folder, loggers, lambda: None)
    first, second = printed(console).splitlines()[-2:]
    assert first == "dashboards   venv/bin/python -m tensorboard.main --logdir runs"
    assert second == "dashboards   venv/bin/python -m wandb sync wandb/offline-run-1"


@pytest.mark.parametrize("inside", [True, False])
def test_a_path_is_relative_only_inside_the_working_folder(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_trainer: Any, inside: bool
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    place = "" if inside else f"{tmp_path}/"
    folder = tmp_path / ("here" if inside else ".") / "my runs" / "v"
    typed = Path(os.path.relpath(folder))  # ../my runs/v outside
    folder.mkdir(parents=True)
    (folder / "best.ckpt").touch()
    results = {"dataset": "x", "test/accuracy": 0.5, "fit_seconds": 2.0, "checkpoint": str(typed / "best.ckpt")}
    report.announce(console, make_trainer(), BoringModel(), BoringDataModule(), typed, typed / "best.ckpt")
    loggers = [TensorBoardLogger(typed.parent, name="", version="v"), CSVLogger(typed.parent, name="", version="v")]
    report.conclude(console, results, typed, loggers, lambda: typed / "curves.png")
    for line in (
        f"{place}my runs/v ",  # folder
        f" {place}my runs/v/best.ckpt",
        f"numbers in {place}my runs/v/results.json\n",
        f"checkpoint   {place}my runs/v/best.ckpt\n",
        f"curves       {place}my runs/v/curves.png\n",
        f"dashboards   tensorboard --logdir '{place}my runs'\n",
        f"metrics      {place}my runs/v/metrics.csv\n",
        f"predictions  arcface-pl predict --ckpt_path '{place}my runs/v/best.ckpt'\n",
    ):
        assert line in printed(console)
    assert ".." not in printed(console)


def test_results_are_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    report.write_json(path, {"a": 1.5})
    with pytest.raises(TypeError):
        report.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1.5}
    assert [each.name for each in path.parent.iterdir()] == ["results.json"]
