"""A run resumed with other data has scores and files of its own."""

import json
import math
from pathlib import Path

import pytest
import torch

from arcface_pl.callbacks.run.resumed_settings import forget_scores, has_other_data
from arcface_pl.checkpoints.reading import read_checkpoint
from arcface_pl.cli import main

pytestmark = pytest.mark.usefixtures("in_folder")

FIT = [
    "fit", "--data.dataset", "digits", "--max_epochs", "1", "--limit_train_batches", "2", "--limit_test_batches", "1",
    "--enable_progress_bar", "false", "--model.backbone", "FastCNN", "--model.backbone.width", "4",
    "--trainer.callbacks", "null", "--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks+=EarlyStopping",
    "--trainer.callbacks.monitor=val/loss",
]  # fmt: skip
RESUME = ["fit", "--ckpt_path", "last", "--max_epochs", "2", "--allow_inexact_resume"]
LOGS = Path("lightning_logs")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("other", ["--data.val_fraction 0.3", "--data.classes [0,1,2,3,4,5,6,7,8,9] --data.seed 5"])
def test_nothing_is_carried_over(other: str) -> None:
    main(FIT)
    path = LOGS / "version_0/checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    for state in content["callbacks"].values():
        state |= {key: torch.tensor(-1.0) if key == "best_score" and "wait_count" in state else 2.0
                  for key in state if key == "best_score"}  # fmt: skip
    torch.save(content, path)  # scores that no run can reach
    before = contents(LOGS / "version_0")
    main([*RESUME, *other.split()])
    assert contents(LOGS / "version_0") == before
    results = json.loads((LOGS / "version_1/results.json").read_text())
    assert results["val/num_images"] != 144 or "seed" in other
    assert Path(results["checkpoint"]).parts[-3] == "version_1"
    callbacks = read_checkpoint(LOGS / "version_1/checkpoints/last.ckpt")["callbacks"]
    assert callbacks["RunCheckpoint"]["best_score"] <= 1
    stopping = next(state for state in callbacks.values() if "wait_count" in state)
    assert stopping["best_score"] > 0
    assert read_checkpoint(LOGS / "version_1/checkpoints/last.ckpt")["epoch"] == 1


def test_the_same_data_in_other_batches_continue_the_run() -> None:
    main(FIT)
    main([*RESUME, "--data.batch_size", "32"])
    assert sorted(path.name for path in LOGS.iterdir()) == ["version_0"]
    assert read_checkpoint(LOGS / "version_0/checkpoints/last.ckpt")["epoch"] == 1


class Foreign:
    def __init__(self, root: str) -> None:
        self.hparams = {"root": root}


def test_other_data_of_a_foreign_data_module() -> None:
    saved = {"data": {"name": "Foreign", "kwargs": {"root": "a"}}}
    assert not has_other_data(Foreign("a"), saved)
    assert has_other_data(Foreign("b"), saved)
    assert has_other_data(Foreign("a"), {"data": {"name": "Other", "kwargs": {}}})
    assert not has_other_data(None, saved)
    assert not has_other_data(Foreign("a"), {})


def test_forget_scores() -> None:
    plateau = {"mode_worse": math.inf, "best": 0.1, "num_bad_epochs": 3}
    checkpoint = {"callbacks": {"a": {"best_score": 1.0}, "b": {"steps": 1}}, "lr_schedulers": [plateau, {"gamma": 1}]}
    forget_scores(checkpoint)
    assert checkpoint == {
        "callbacks": {"b": {"steps": 1}},
        "lr_schedulers": [{"mode_worse": math.inf, "best": math.inf, "num_bad_epochs": 0}, {"gamma": 1}],
    }


def test_a_refusal_names_what_chose_other_images(capsys: pytest.CaptureFixture) -> None:
    main(FIT)
    for change, said in (
        ("--data.val_fraction=0.3", "data.val_fraction: the checkpoint has 0.1, this run 0.3. Restore"),
        ("--data.seed=5", "exactly. data.seed: the checkpoint has 0, this run 5"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main([*RESUME[:-1], change])
        assert said in capsys.readouterr().err
