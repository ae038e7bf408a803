"""The study: what it chooses by, what it reports, and that it continues where it stopped."""

import csv
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

FOLDER = Path(__file__).parents[2] / "scripts" / "study"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, with a made-up Omniglot in the place of the real one: Greek is held out."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "data")
    from alphabets import archives, drawings, members, use_made_up, write_archives

    packed = archives(members(drawings()))
    use_made_up(monkeypatch, packed)
    write_archives(tmp_path / "archives", packed)
    monkeypatch.setenv("ARCFACE_PL_DATA_DIR", str(tmp_path / "archives"))
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("run", "report", "rows", "characters", "extra_losses"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import run

    monkeypatch.setattr(run, "CHOOSE_ON", ("Greek",))
    monkeypatch.setattr(run, "ALL", 7)
    monkeypatch.setattr(run, "MOST", 5)
    return run


def row(study: ModuleType, head: str, margin: float, scale: float, seed: int, **changed: Any) -> dict[str, Any]:
    """A finished run, made up."""
    run = study.Run(5, 64, 1, head, margin, scale, seed)
    names = [f"{split}_{name}" for split in ("val", "test") for name in study.SCORES]
    return {**run._asdict(), "epochs": 1, **dict.fromkeys(names, 0.5), **changed}


def test_held_out_alphabets_choose_and_the_evaluation_does_not(study: ModuleType) -> None:
    rows = [row(study, "ArcFaceHead", 0.1, 8.0, seed, val_recall=0.8, test_recall=0.1) for seed in range(3)]
    rows += [row(study, "ArcFaceHead", 0.3, 8.0, seed, val_recall=0.7, test_recall=0.9) for seed in range(3)]
    rows += [row(study, "ArcFaceHead", 0.5, 8.0, 0, val_recall=1.0, test_recall=1.0)]  # one lucky seed is no mean
    assert study.choose(rows, "ArcFaceHead", num_classes=5) == (0.1, 8.0)
    assert study.choose(rows, "CosFaceHead", num_classes=5) is None


def test_the_whole_background_takes_the_choice_for_the_most_characters(study: ModuleType) -> None:
    rows = [
        row(study, "ArcFaceHead", 0.1, 8.0, 0, val_recall=0.8),
        row(study, "ArcFaceHead", 0.3, 8.0, 0, val_recall=0.7),
    ]
    whole = [row(study, "ArcFaceHead", margin, 8.0, 0, num_classes=7, val_recall="") for margin in (0.3, 0.1)]
    assert study.choose(rows + whole, "ArcFaceHead", num_classes=7) == (0.1, 8.0)
    assert sys.modules["rows"].chosen(rows + whole, "ArcFaceHead", num_classes=7) == whole[1:]


def test_tables_show_mean_and_sample_deviation_over_seeds(study: ModuleType, tmp_path: Path) -> None:
    rates, plain = [0.10, 0.12, 0.17], [0.2, 0.2, 0.3]
    rows = [row(study, "ArcFaceHead", 0.3, 16.0, seed, test_eer=rate) for seed, rate in enumerate(rates)]
    rows += [row(study, "NormalizedSoftmaxHead", 0.0, 16.0, seed, test_recall=0.9) for seed in range(3)]
    rows += [row(study, "LinearHead", 0.0, 1.0, seed, test_eer=rate) for seed, rate in enumerate(plain)]
    study.write_report(rows, tmp_path)
    text = (tmp_path / "study.md").read_text()
    shown = f"{100 * statistics.mean(rates):.2f} ± {100 * statistics.stdev(rates):.2f}"
    assert f"| ArcFaceHead | m 0.3, s 16 | 50.00 ± 0.00 | {shown} | 50.00 ± 0.00 |" in text
    assert "| ArcFace, m = 0 | 90.00 ± 0.00 |" in text  # the softmax on cosines is ArcFace without a margin
    saved = [100 * (rate - other) for rate, other in zip(rates, plain, strict=True)]  # seed by seed
    assert f"| {statistics.mean(saved):+.2f} ± {statistics.stdev(saved):.2f} |" in text
    with Image.open(tmp_path / "study.png") as picture:
        assert min(picture.size) > 400


def test_each_seed_runs_every_cell_before_the_next_seed(study: ModuleType) -> None:
    runs = list(study.all_runs(3))
    assert len(set(runs)) == len(runs)
    assert {run.head for run in runs} == set(study.HEADS)
    assert {run.embedding_dim for run in runs} == {32, 64, 128, 512}
    assert {run.sub_centers for run in runs} == {1, 3}
    cells = [run[:-1] for run in runs if run.seed == 0]
    assert [run[:-1] for run in runs] == 3 * cells
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    for run in runs:
        head = study.make_head(run)
        assert (head.num_classes, head.embedding_dim) == (run.num_classes, run.embedding_dim)
        assert run.head == "LinearHead" or (head.scale, head.sub_centers) == (run.scale, run.sub_centers)


def test_fewer_characters_are_drawn_by_the_seed_and_repeated(study: ModuleType) -> None:
    def load(count: int, seed: int) -> Any:
        data = study.DrawnCharacters(count, image_size=12, held_out_classes=["Greek"], seed=seed)
        data.setup("fit")
        return data

    sys.modules["characters"].drawings.cache_clear()
    whole, few = load(5, 0), load(2, 0)
    assert whole.num_train == few.num_train == 100
    assert few.class_names == load(2, 0).class_names
    assert set(few.class_names) < set(whole.class_names)
    assert len({tuple(load(2, seed).class_names) for seed in range(8)}) > 1
    assert few.class_counts in ([60, 40], [50, 50])  # 40 drawings, two and a half times
    assert few.held_out_class_names == whole.held_out_class_names


class Inline:
    """A pool without processes."""

    def __init__(self, jobs: int, context: Any, initializer: Callable[[], None]) -> None:
        self.started = jobs

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *error: object) -> None: ...

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*arguments))
        except ValueError as error:
            future.set_exception(error)
        return future


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_finished_run_is_not_run_again_and_a_failed_one_stops_no_other(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    cells = {"LinearHead": ((0.0,), (1.0,)), "ArcFaceHead": ((0.3, -1.0), (8.0,))}  # a margin that is refused
    for name, value in {"GRID": cells, "FEWER": cells, "FEW_SCALES": cells}.items():
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr(study, "FEWER_CLASSES", (2,))
    monkeypatch.setattr(study, "WIDTHS", ())
    monkeypatch.setattr(study, "ProcessPoolExecutor", Inline)
    study.append_row(tmp_path / "study.csv", row(study, "LinearHead", 0.0, 1.0, 0, test_recall=0.125))
    monkeypatch.setattr("sys.argv", ["run.py", "--seeds", "1", "--epochs", "1", "--jobs", "1", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="runs failed"):
        study.main()
    with (tmp_path / "study.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    keys = [(each["head"], each["num_classes"], each["sub_centers"]) for each in found]
    assert keys == [
        ("LinearHead", "5", "1"),
        ("ArcFaceHead", "5", "1"),
        ("LinearHead", "2", "1"),
        ("ArcFaceHead", "2", "1"),
        ("ArcFaceHead", "5", "3"),
        ("LinearHead", "7", "1"),
        ("ArcFaceHead", "7", "1"),
    ]
    assert found[0]["test_recall"] == "0.12500"
    assert all(0 <= float(each["test_eer"]) <= 1 for each in found)
    assert [each["val_eer"] == "" for each in found] == 5 * [False] + 2 * [True]
    assert "margin: got -1.0" in capsys.readouterr().out
    assert "| 12.50 |" in (tmp_path / "study.md").read_text()


def test_scores_are_those_of_the_evaluation(study: ModuleType) -> None:
    from arcface_pl.data.sources.omniglot_files import OneShotRun
    from arcface_pl.evaluation.measure import Embedded, evaluate

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(12).repeat_interleave(7)
    embeddings = torch.randn(12, 8, generator=generator)[labels] + torch.randn(len(labels), 8, generator=generator)
    runs = [OneShotRun(torch.arange(0, 84, 7), torch.arange(1, 84, 7), torch.arange(12))]
    scores = evaluate(Embedded(embeddings, labels), [str(name) for name in range(12)], runs=runs).scores
    assert study.measure(embeddings, labels, runs) == {
        "eer": scores["verification"]["eer"],
        "recall": scores["retrieval"]["recall_at_1"],
        "one_enrolled": scores["identification"]["rank_1_of_1_enrolled"],
        "five_enrolled": scores["identification"]["rank_1_of_5_enrolled"],
        "one_shot": scores["one_shot"]["one_shot_accuracy"],
    }


def test_further_losses_are_compared_with_the_head_alone_seed_by_seed(study: ModuleType) -> None:
    from extra_losses import WAYS, report

    alone, other = "margin head alone", "batches of pairs"
    recalls = {(alone, 0): 0.5, (alone, 1): 0.6, (alone, 2): 0.9, (other, 0): 0.51, (other, 1): 0.63}
    rows = [
        {"way": way, "seed": str(seed), **dict.fromkeys(("eer", "recall", "one_enrolled", "one_shot"), str(recall))}
        | {"accelerator": "cpu" if seed == 2 else "gpu"}
        for (way, seed), recall in recalls.items()
    ]
    *lines, _, made = report(rows).splitlines()[2:]
    assert made == "Seeds 0, 1 on a gpu; 2 on a cpu."
    assert [line.split(" | ")[0] for line in lines] == [f"| {way}" for way in WAYS if way in (alone, other)]
    spread = statistics.stdev([51, 63])
    assert lines[1].startswith(f"| {other} | 2 | 57.00% ({spread:.2f}), +2.00 |")  # of the two seeds that both have
