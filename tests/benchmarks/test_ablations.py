import json
from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks"


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_each_recipe_is_trained_and_compared_with_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ["whole", "no average of the weights", "plain softmax"]
    flags = ["--dataset", "digits", "--seeds", "1", "--max_epochs", "1", "--only", *names, "--out", str(tmp_path)]
    import_module("ablations").main(flags)
    runs = json.loads((tmp_path / "ablations_accurate.json").read_text())["runs"]
    assert list(runs) == names
    *_, _, first, second, third = (tmp_path / "ablations_accurate.md").read_text().splitlines()
    whole, other = (100 * runs[name][0]["val/accuracy"] for name in names[:2])
    losses = [runs[name][0]["val/loss"] for name in names[:2]]
    assert losses[0] != losses[1]  # the flag reached the callback; accuracies of so few images may coincide
    assert first.startswith(f"| whole | {whole:.2f} ({whole:.2f} to {whole:.2f}) |  | 1 |")
    assert f"| {other - whole:+.2f} |" in second
    assert third.startswith("| plain softmax |")


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_runs_side_by_side_are_those_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = []
    for jobs in ("1", "2"):
        flags = ["--recipe", "fast", "--dataset", "digits", "--seeds", "0", "1", "--only", "whole", "batches of 128"]
        import_module("ablations").main([*flags, "--jobs", jobs, "--out", str(tmp_path / jobs)])
        runs = json.loads((tmp_path / jobs / "ablations_fast.json").read_text())["runs"]
        found.append({name: [(run["seed"], run["val/loss"]) for run in seeds] for name, seeds in runs.items()})
    assert found[0] == found[1]
    assert len({loss for seeds in found[0].values() for _, loss in seeds}) == 4


def test_a_variant_of_another_recipe_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    with pytest.raises(SystemExit):
        import_module("ablations").main(["--recipe", "fast", "--only", "no bending"])
    assert "--only: got 'no bending', but fast accepts whole, no margin" in capsys.readouterr().err
