"""``scripts/study/label_noise.py``: what it plants, what it counts, and a run from the command line."""

import csv
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "scripts" / "study"


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "label_noise", raising=False)
    import label_noise

    return label_noise


def test_a_twentieth_of_the_labels_becomes_another_class(noise: ModuleType) -> None:
    labels = torch.arange(4000) % 7
    planted = noise.plant(labels, 7, seed=0)
    assert int((planted != labels).sum()) == 200
    assert planted.unique().tolist() == list(range(7))
    assert planted.equal(noise.plant(labels, 7, seed=0))
    assert not planted.equal(noise.plant(labels, 7, seed=1))


def test_found_is_counted_from_the_top_of_the_list(noise: ModuleType) -> None:
    is_wrong = torch.zeros(200, dtype=torch.bool)
    is_wrong[[7, 50, 120, 121]] = True
    ranked = torch.tensor([7, 50, *(n for n in range(200) if n not in (7, 50))])
    found = dict(zip(noise.SHARES, noise.found_shares(ranked, is_wrong), strict=True))
    assert (found[0.0], found[0.005], found[0.01], found[0.2]) == (0.0, 0.25, 0.5, 0.5)


@pytest.mark.parametrize("word", ["mnist", "mnist:", "mnist:0", "mnist:two", "omniglot:8:images_background", "faces:1"])
def test_a_set_is_a_name_and_a_number(
    noise: ModuleType, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["label_noise.py", word])
    with pytest.raises(SystemExit, match="2"):
        noise.main()
    assert f"got {word}; expected mnist, omniglot, digits, with a number, such as mnist:1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_it_runs_on_the_digits(
    noise: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["label_noise.py", "digits:2", "--seeds", "0", "1", "--out", str(tmp_path)])
    noise.main()
    with (tmp_path / "label_noise.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * len(noise.SHARES)
    assert all(0 <= float(row["found"]) <= 1 for row in rows)
    assert "| digits, --folds 2 |" in capsys.readouterr().out
    assert (tmp_path / "label_noise.png").stat().st_size > 5_000
