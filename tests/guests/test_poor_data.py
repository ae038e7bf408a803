"""Six data modules that tell nothing, from training to every command on their checkpoint."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN
from arcface_pl.cli import main

# Loaders of a stranger's are measured as they are, which is said
pytestmark = pytest.mark.filterwarnings("ignore:TrainingAccuracy, training images come from the data set")
NAMES = ["DictBatches", "Int32Labels", "ListLabels", "BytesWithoutValidation", "OnlyTraining", "SeveralLoaders"]


@pytest.fixture(autouse=True)
def _guests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)


def fit(name: str) -> dict[str, Any]:
    words = ["--max_epochs", "2", "--accelerator", "cpu", "--enable_progress_bar", "false", "--logger", "false"]
    main(["fit", "--data", f"guest_poor_data.{name}", "--model.backbone", "FastCNN", *words])
    (path,) = Path().glob("**/results.json")
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_every_command_takes_its_checkpoint(name: str, capsys: pytest.CaptureFixture) -> None:
    results = fit(name)
    shown = capsys.readouterr().out
    assert "96 train" in shown
    assert "4 classes" in shown
    given = ["--data", f"guest_poor_data.{name}"]
    if name == "OnlyTraining":
        assert not any(key.startswith(("val/", "test/")) for key in results)
        for words in (["test", "--ckpt_path", "last"], ["predict", "--ckpt_path", "last"], ["evaluate", "last"]):
            with pytest.raises(SystemExit) as caught:
                main([*words, *given])
            assert caught.value.code == 2
            assert "dataloader" in capsys.readouterr().err
        return
    which = "last" if name == "BytesWithoutValidation" else "best"
    main(["test", "--ckpt_path", which, *given])
    main(["predict", "--ckpt_path", which, *given])
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", which, *given])
    assert not caught.value.code
    (run,) = Path("lightning_logs").iterdir()
    assert json.loads((run / "test.json").read_text())["test/accuracy"] == results["test/accuracy"]
    with (run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 96
    assert sum(row["label"] == row["prediction"] for row in rows) / 96 == pytest.approx(
        results["test/accuracy"], abs=1e-7
    )
    assert rows[1]["label"] == ("north-east" if name == "ListLabels" else "1")
    (evaluation,) = run.glob("evaluate-*.json")
    scores = json.loads(evaluation.read_text())["trained"]["classification"]
    assert scores["accuracy"] == pytest.approx(results["test/accuracy"], abs=1e-7)
    with pytest.raises(SystemExit) as caught:
        main(["test", "--ckpt_path", which])
    assert caught.value.code == 2
    assert "--data" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_trainer_takes_it(name: str, make_trainer: Callable[..., L.Trainer]) -> None:
    import guest_poor_data

    data = getattr(guest_poor_data, name)()
    module = ArcFaceModule(FastCNN(8, width=4), ArcFaceHead(8, 4))
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, datamodule=data)
    names = ["north-west", "north-east", "south-west", "south-east"] if name == "ListLabels" else [*"0123"]
    assert module.data_facts["class_names"] == names
    if name != "OnlyTraining":
        scores, *_ = trainer.test(module, datamodule=data, verbose=False)  # one for each loader
        assert 0 <= scores["test/accuracy"] <= 1
