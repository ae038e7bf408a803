"""The training benchmark: what its watch clocks, what its tables say, and that each part runs."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from arcface_pl.data.sources.catalog import CATALOG
from arcface_pl.data.sources.find import find_folder

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks"
NAMES = ("training", "variants", "baseline", "speed_report", "watch")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield {name: import_module(name) for name in NAMES}
    for name in NAMES:
        sys.modules.pop(name)


def test_the_clock_stands_still_while_the_test_set_is_looked_at(
    benchmark: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    now = 5.0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def accuracy() -> float:
        nonlocal now
        now += 1000
        looked.append(watch.steps)
        return len(looked) / 10

    watch = benchmark["watch"].Watch(steps_an_epoch=7, looks=3, accuracy=accuracy)
    watch.start()
    for _ in range(14):
        now += 2
        watch.step()
    # The first step at or past each third of 7 steps
    assert looked == [3, 5, 7, 10, 12, 14]
    assert watch.seconds == 28
    assert [epochs for epochs, _, _ in watch.curve] == pytest.approx([step / 7 for step in looked])
    assert [share for _, _, share in watch.curve] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


def test_without_looks_nobody_looks(benchmark: dict[str, ModuleType]) -> None:
    watch = benchmark["watch"].Watch(steps_an_epoch=2, looks=0, accuracy=lambda: pytest.fail("looked"))
    watch.start()
    watch.step()
    watch.step()
    assert watch.curve == []


def seen(contender: str, seconds: float, **task: Any) -> dict[str, Any]:
    curve = [[0.1, seconds / 4, 0.975], [0.2, seconds / 2, 0.991]]
    task = {"contender": contender, "threads": 2, "epochs": 1, "num_images": 60_000, "batch_size": 64, **task}
    return {"task": task, "seconds": seconds, "images": 60_000, "steps": 100, "peak_gb": 1.0, "curve": curve}


def test_tables_show_medians_ratios_and_what_was_not_reached(benchmark: dict[str, ModuleType]) -> None:
    rounds = [seen(name, time) for time in (10, 30, 20) for name in ("original", "same network")]
    for each in rounds:
        if each["task"]["contender"] == "same network":
            each["seconds"] /= 4
    results = {
        "throughput": [*rounds, seen("floor", 4)],
        "accuracy": [seen("original", time) for time in (10, 30, 20)],
        "overhead": [seen("bare loop", 2), seen("same network", 2.1), seen("floor", 1)],
        "startup": [{"task": {}, "seconds": 5.0}],
        "scaling": [seen(name, 3, threads=count) for name in ("original", "same network") for count in (1, 2)],
    }
    about = {"machine": "here", "threads": 2, "wait_policy": None, "versions": {"torch": "1"}}
    text = benchmark["speed_report"].markdown(about, ["this", "and that"], results)
    assert "(`this`; `and that`)" in text
    assert "| the original loop | 64 | 20.00 (10.00 to 30.00) | 3,000 | 1.00 | 5.00 | 1.00 |" in text
    assert "| this project, same network | 64 | 5.00 (2.50 to 7.50) | 12,000 | 4.00 | 1.25 | 1.00 |" in text
    assert "| the floor: its convolutions and products alone | 64 | 4.00 | 15,000 | 5.00 |  | 1.00 |" in text
    assert "take 20% of the original loop's time" in text
    assert "at most 5.00 times as fast" in text
    expected = "| the original loop, 1 epoch | 5.0 (2.5 to 7.5) | 10.0 (5.0 to 15.0) | 10.0 (5.0 to 15.0) |"
    assert f"{expected} not reached | not reached | 20.0 (10.0 to 30.0) | 99.10 |" in text
    assert "| 64 | 10.00 | 20.00 | 21.00 | +5.0% (+5.0 to +5.0) |" in text
    assert "sooner" not in text  # nothing of the fast recipe was measured
    assert "to the first step: 5.00 s" in text
    assert "| 60,000 | 1 | 3.00 | 3.00 |" in text


def test_a_short_run_at_a_constant_rate_counts_with_the_long_ones(benchmark: dict[str, ModuleType]) -> None:
    rounds = [
        seen("original", 80, epochs=4),
        seen("original", 240, epochs=10),
        seen("fast", 4),
        seen("fast", 8, epochs=4),
    ]
    about = {"machine": "here", "threads": 2, "wait_policy": "passive", "versions": {"torch": "1"}}
    text = benchmark["speed_report"].markdown(about, ["this"], {"accuracy": rounds})
    assert "| the original loop, 4 or 10 epochs | 40.0 (20.0 to 60.0) | 80.0 (40.0 to 120.0) |" in text
    assert "| 240.0 | 99.10 |" in text
    assert "this project, fast.yaml reaches 99% 40.0 times sooner than the original loop (medians)." in text
    assert "OMP_WAIT_POLICY=passive" in text


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(find_folder(CATALOG["mnist"], "data") is None, reason="needs MNIST")
def test_it_runs(benchmark: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = find_folder(CATALOG["mnist"], "data")
    assert folder is not None
    flags = ["--data_dir", str(folder.parents[1]), "--threads", "1", "--repeats", "1", "--num_images", "256"]
    benchmark["training"].main(
        [*flags, "--epochs", "1", "--sections", "overhead", "accuracy", "startup", "--out", str(tmp_path)]
    )
    record = json.loads((tmp_path / "speed.json").read_text())
    assert {each["task"]["contender"] for each in record["results"]["accuracy"]} == {
        "original",
        "lightning",
        "same network",
        "fast",
    }
    for each in record["results"]["accuracy"]:
        assert each["seconds"] > 0
        assert 0.02 < each["curve"][-1][2] < 1
    assert record["results"]["startup"][0]["seconds"] > 0
    assert record["results"]["overhead"][-1]["task"]["contender"] == "floor"
    assert (tmp_path / "speed.md").read_text() in capsys.readouterr().out
    more = ["--add", "--sections", "accuracy", "--contenders", "fast", "--epochs", "1", "--out", str(tmp_path)]
    benchmark["training"].main([*flags, *more])
    added = json.loads((tmp_path / "speed.json").read_text())
    assert len(added["commands"]) == 2
    assert added["results"]["overhead"] == record["results"]["overhead"]
    before = record["results"]["accuracy"]
    assert added["results"]["accuracy"][: len(before)] == before
    (new,) = added["results"]["accuracy"][len(before) :]
    assert (new["task"]["contender"], new["task"]["seed"]) == ("fast", 1)
    assert new["curve"] != next(each for each in before if each["task"]["contender"] == "fast")["curve"]
    with pytest.raises(SystemExit, match="--add: .* give another --out"):
        benchmark["training"].main([*flags, *more, "--wait_policy", "passive"])
    with Image.open(tmp_path / "speed.png") as picture:
        assert min(picture.size) > 400
