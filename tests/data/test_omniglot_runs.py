"""Omniglot on the command line: the recipe trains on made-up alphabets, and the protocol measures unseen ones."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from alphabets import archives, drawings, members, use_made_up, write_archives

from arcface_pl import ArcFaceModule
from arcface_pl.cli import main
from arcface_pl.data import OmniglotDataModule

SMALL = [
    *("--config", "omniglot", "--max_epochs", "1", "--enable_progress_bar", "false", "--precision", "32-true"),
    *(
        "--model.backbone",
        "FastCNN",
        "--data.data_dir",
        "archives",
        "--data.rotations",
        "false",
        "--accelerator",
        "cpu",
    ),
]


@pytest.fixture
def in_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packed = archives(members(drawings()))
    use_made_up(monkeypatch, packed)
    write_archives(tmp_path / "archives", packed)


def evaluated(*args: Any) -> dict[str, Any]:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "last", *args, "--accelerator", "cpu", "--json", "scores.json"])
    assert caught.value.code is None
    found = json.loads(Path("scores.json").read_text())
    Path("scores.json").unlink()
    return found


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("in_folder")
def test_one_network_is_measured_on_all_unseen_characters_and_the_official_runs(capsys: pytest.CaptureFixture) -> None:
    main(["fit", *SMALL, "--data.held_out_classes", "[N_Ko]"])
    found = evaluated("--protocol", "omniglot")
    printed = capsys.readouterr().out
    assert "trained" not in found
    scores = found["held_out"]
    assert (len(scores["classes"]), scores["classes"][0], scores["num_images"]) == (5, "Tengwar/character01", 100)
    assert scores["verification"]["num_genuine"] + scores["verification"]["num_impostor"] == 100 * 99 // 2
    assert set(scores["identification"]) == {"rank_1_of_1_enrolled", "rank_1_of_5_enrolled"}
    # one-shot: an independent forward pass, and a loop over every query and every enrolled image
    module = ArcFaceModule.load_from_checkpoint("lightning_logs/version_0/checkpoints/last.ckpt", map_location="cpu")
    data = OmniglotDataModule("archives", image_size=28)
    data.prepare_data()
    data.setup("test")
    with torch.no_grad():
        unit = F.normalize(torch.cat([module.eval()(images) for images, _ in data.held_out_dataloader("test")]), dim=1)
    labels = torch.cat([labels for _, labels in data.held_out_dataloader("test")])
    rates = []
    for run in data.one_shot_runs["test"]:
        right = 0
        for query in run.queries.tolist():
            nearest = max(run.enrolled.tolist(), key=lambda each: float(unit[query] @ unit[each]))
            right += int(labels[nearest] == labels[query])
        rates.append(right / len(run.queries))
    assert scores["one_shot"]["num_runs"] == len(rates) == 2
    assert scores["one_shot"]["one_shot_accuracy"] == pytest.approx(sum(rates) / 2)
    assert f"{sum(rates) / 2:.2%}" in printed
    assert evaluated("--split", "val")["held_out"]["classes"] == ["N_Ko/character01", "N_Ko/character02"]
    Path("archives/omniglot-py/all_runs.zip").unlink()
    missing = evaluated()["held_out"]
    assert "one_shot" not in missing
    assert missing["not_measured"] == ["one-shot classification: its runs are missing"]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("in_folder")
def test_without_validation_alphabets_all_characters_are_trained_on(capsys: pytest.CaptureFixture) -> None:
    main(["fit", *SMALL, "--data.held_out_classes", "[]"])
    assert len(evaluated()["held_out"]["classes"]) == 5
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "last", "--split", "val"])
    assert caught.value.code == 2
    assert "--split val: OmniglotDataModule has no validation images" in capsys.readouterr().err
    for command in ("test", "predict"):
        with pytest.raises(SystemExit) as caught:
            main([command, "--ckpt_path", "last"])
        assert caught.value.code == 2
        printed = capsys.readouterr().err
        assert f"omniglot without test images of trained classes'; expected images to {command} on" in printed
