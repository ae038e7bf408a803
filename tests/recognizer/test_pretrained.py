import json
import random
from pathlib import Path

import pytest
import torch

from arcface_pl import Recognizer
from arcface_pl.recognizer import PretrainedError


def test_the_folder_is_the_model(recognizer: Recognizer, tmp_path: Path, images: torch.Tensor) -> None:
    recognizer.calibrate(images, [f"class {index % 4}" for index in range(12)], far=0.25, source="mine", framed=True)
    for _ in range(2):
        recognizer.save_pretrained(tmp_path / "model")
    back = Recognizer.from_pretrained(tmp_path / "model")
    assert back.embed(images, framed=True).equal(recognizer.embed(images, framed=True))
    assert back.class_scores(images, framed=True).equal(recognizer.class_scores(images, framed=True))
    assert back.thresholds == recognizer.thresholds
    assert back.model.fingerprint == recognizer.model.fingerprint
    assert {each.name for each in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert {each.name for each in tmp_path.iterdir()} == {"model", "model.ckpt"}


def test_the_card_says_what_was_measured_and_nothing_else(recognizer: Recognizer, tmp_path: Path) -> None:
    recognizer.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Nothing was measured." in card
    assert "%" not in card
    recognizer.model.metrics = {"val/accuracy": 0.5}
    recognizer.save_pretrained(tmp_path / "model")
    assert "| accuracy | 50.00% |  |" in (tmp_path / "model" / "README.md").read_text()


def test_something_else_is_not_overwritten(recognizer: Recognizer, tmp_path: Path) -> None:
    with pytest.raises(PretrainedError, match="holds other files"):
        recognizer.save_pretrained(tmp_path)


def test_damage_is_one_error(recognizer: Recognizer, tmp_path: Path) -> None:
    recognizer.save_pretrained(tmp_path / "model")
    draw = random.Random(0)
    for name in ("config.json", "model.safetensors"):
        file = tmp_path / "model" / name
        whole = file.read_bytes()
        for _ in range(25):
            place = draw.randrange(len(whole))
            flipped = whole[:place] + bytes([whole[place] ^ draw.randrange(1, 256)]) + whole[place + 1 :]
            for damaged in (flipped, whole[:place], whole + b"\0"):
                file.write_bytes(damaged)
                with pytest.raises(PretrainedError, match=str(tmp_path)):
                    Recognizer.from_pretrained(tmp_path / "model")
        file.write_bytes(whole)
    with pytest.raises(PretrainedError, match="no such file"):
        Recognizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": {"name": "os.system", "kwargs": {}}},
        {"head": {"name": "ArcFaceHead", "kwargs": {"embedding_dim": 16, "num_classes": 5}}},
        {"class_names": ["one"]},
        {"preprocessing": {"image_size": "x"}},
        {"calibration": {"far": "nan"}},
        {"version": 99},
    ],
)
def test_a_config_that_does_not_fit_is_one_error(recognizer: Recognizer, tmp_path: Path, change: dict) -> None:
    from arcface_pl.recognizer.manifest import _digest

    recognizer.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text()) | change
    del config["config_sha256"]
    file.write_text(json.dumps({**config, "config_sha256": _digest(config)}))
    with pytest.raises(PretrainedError, match="config.json"):
        Recognizer.from_pretrained(tmp_path / "model")
