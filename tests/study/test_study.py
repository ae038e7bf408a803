"""The study: what it chooses by, what it reports, and that it goes on where it stopped."""

import csv
import statistics
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "scripts" / "study"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("run", "report", "rows"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import run

    return run


def row(study: ModuleType, head: str, margin: float, scale: float, seed: int, **changed: Any) -> dict[str, Any]:
    """A finished run, made up."""
    run = study.Run("mnist-8-9", 8, head, margin, scale, seed)
    names = [f"{split}_{name}" for split in ("val", "test") for name in ("accuracy", "eer", "tar", "recall")]
    return {
        **run._asdict(),
        "dataset": "digits",
        "epochs": 1,
        **dict.fromkeys([*names, "train_seconds"], 0.5),
        **changed,
    }


def test_validation_chooses_and_the_test_set_does_not(study: ModuleType) -> None:
    rows = [row(study, "ArcFaceHead", 0.1, 8.0, seed, val_eer=0.2, test_eer=0.9) for seed in range(3)]
    rows += [row(study, "ArcFaceHead", 0.3, 8.0, seed, val_eer=0.3, test_eer=0.1) for seed in range(3)]
    rows += [row(study, "ArcFaceHead", 0.5, 8.0, 0, val_eer=0.0, test_eer=0.0)]  # one lucky seed is no mean
    assert study.choose(rows, "mnist-8-9", 8, "ArcFaceHead") == (0.1, 8.0)


def test_tables_show_mean_and_sample_deviation_over_seeds(study: ModuleType, tmp_path: Path) -> None:
    rates = [0.10, 0.12, 0.17]
    rows = [row(study, "ArcFaceHead", 0.3, 16.0, seed, test_eer=rate) for seed, rate in enumerate(rates)]
    rows += [row(study, "NormalizedSoftmaxHead", 0.0, 16.0, seed, test_recall=0.9) for seed in range(3)]
    study.write_report(rows, tmp_path)
    text = (tmp_path / "study.md").read_text()
    shown = f"{100 * statistics.mean(rates):.2f} ± {100 * statistics.stdev(rates):.2f}"
    assert f"| ArcFaceHead | 0.3 | 16 | 50.00 ± 0.00 | {shown} | 50.00 ± 0.00 | 50.00 ± 0.00 | 0.5 | 3 |" in text
    assert "| ArcFace, m = 0 | 90.00 ± 0.00 |" in text  # the softmax on cosines is ArcFace without a margin
    with Image.open(tmp_path / "study.png") as picture:
        assert min(picture.size) > 400


def test_every_head_has_its_cells_with_every_seed(study: ModuleType) -> None:
    runs = list(study.grid(5, []))
    assert len(set(runs)) == len(runs)
    assert {run.head for run in runs} == set(study.HEADS)
    cells = {run[:5] for run in runs}
    assert all(sum(run[:5] == cell for run in runs) == 5 for cell in cells)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    for run in runs:
        head = study.make_head(run)
        assert head.num_classes == 8
        assert run.head == "LinearHead" or head.scale == run.scale


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_finished_run_is_not_run_again(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    cells = {"LinearHead": ((0.0,), (1.0,)), "ArcFaceHead": ((0.3,), (8.0,))}
    monkeypatch.setattr(study, "GRID", cells)
    monkeypatch.setattr(study, "CONFIRM_ON", ())
    monkeypatch.setattr(study, "SCALES", (8.0,))
    made_up = row(study, "LinearHead", 0.0, 1.0, 0, test_eer=0.125)
    study.append_row(tmp_path / "study.csv", made_up)
    flags = ["--dataset", "digits", "--seeds", "1", "--processes", "1", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["study.py", *flags])
    study.main()
    with (tmp_path / "study.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(each["head"], each["num_classes"]) for each in found] == [
        ("LinearHead", "8"),
        ("ArcFaceHead", "8"),
        ("ArcFaceHead", "4"),
    ]
    assert found[0]["test_eer"] == "0.125"
    assert all(0 <= float(each["test_eer"]) <= 1 for each in found)
    assert "12.50 ± 0.00" in (tmp_path / "study.md").read_text()
    logs = list((tmp_path / "lightning_logs/study").rglob("*tfevents*"))
    assert len(logs) == 2
