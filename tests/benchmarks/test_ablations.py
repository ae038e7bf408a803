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
    runs = json.loads((tmp_path / "ablations.json").read_text())["runs"]
    assert list(runs) == names
    _, _, *rows = (tmp_path / "ablations.md").read_text().splitlines()
    whole, other = (100 * runs[name][0]["val/accuracy"] for name in names[:2])
    assert whole != other  # the flag reached the callback
    assert rows[0].startswith(f"| whole | {whole:.2f} ({whole:.2f} to {whole:.2f}) |  |")
    assert f"| {other - whole:+.2f} |" in rows[1]
