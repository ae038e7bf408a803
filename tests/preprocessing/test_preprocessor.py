"""What a `Preprocessor` is made from: data sets, checkpoints with one and checkpoints from before."""

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import save_model

from arcface_pl import ArcFaceHead, ArcFaceModule, MNISTDataModule, Recognizer, SimpleCNN
from arcface_pl.cli import main
from arcface_pl.errors import UserError
from arcface_pl.preprocessing import Preprocessor

OWN = Preprocessor(28, 1, (0.3,), (0.6,), "ink", 0.9)


def checkpoint(path: Path, **facts: object) -> Path:
    torch.manual_seed(0)
    module = ArcFaceModule(SimpleCNN(16), ArcFaceHead(16, 4))
    data = {"class_names": list("abcd"), "normalization": ((0.2,), (0.4,)), "dataset_name": "mnist"} | facts
    return save_model(module, path, **data)


def test_what_a_checkpoint_keeps_survives_every_way_of_writing_it(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "own.ckpt", preprocessing=OWN.to_dict())
    recognizer = Recognizer.from_checkpoint(path)
    assert recognizer.model.preprocessor == OWN
    recognizer.save_pretrained(tmp_path / "folder")
    assert Recognizer.from_pretrained(tmp_path / "folder").model.preprocessor == OWN
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["preprocessing"] == OWN.to_dict()


def test_an_exported_file_says_how_pictures_reach_it(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = checkpoint(tmp_path / "own.ckpt", preprocessing=OWN.to_dict())
    digits = MNISTDataModule(dataset="digits")
    digits.prepare_data()
    digits.setup("test")
    from PIL import Image

    Image.fromarray(digits.test_dataloader().data.images[0, 0].numpy()).save(tmp_path / "digit.png")
    words = ["export", str(path), "--format", "onnx", "--output", str(tmp_path / "own.onnx")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--images", str(tmp_path / "digit.png")])
    assert not ended.value.code
    kept = onnxruntime.InferenceSession(tmp_path / "own.onnx").get_modelmeta().custom_metadata_map
    assert Preprocessor.from_dict(json.loads(kept["arcface_pl"])["preprocessing"]) == OWN


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mnist", Preprocessor(28, 1, (0.2,), (0.4,), "ink")),
        ("kmnist", Preprocessor(28, 1, (0.2,), (0.4,), "ink", 1.0)),
        ("fashion_mnist", Preprocessor(28, 1, (0.2,), (0.4,), "object")),
        ("something else", Preprocessor(28, 1, (0.2,), (0.4,), "picture")),
        (None, Preprocessor(28, 1, (0.2,), (0.4,), "picture")),
    ],
)
def test_an_older_checkpoint_has_it_derived(name: str | None, expected: Preprocessor, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "old.ckpt", dataset_name=name)
    assert Recognizer.from_checkpoint(path).model.preprocessor == expected


def test_without_any_facts_pixels_run_from_0_to_1() -> None:
    assert Preprocessor.from_data_facts({}, in_channels=3, image_size=64) == Preprocessor(64, 3, (0.0,) * 3, (1.0,) * 3)


def test_plain_values_and_back() -> None:
    assert Preprocessor.from_dict(json.loads(json.dumps(OWN.to_dict()))) == OWN
    assert hash(Preprocessor.from_dict(OWN.to_dict())) == hash(OWN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"style": "oil"}, "style.*ink.*object.*picture"),
        ({"ink_share": 0}, "ink_share: got 0; expected a fraction"),
        ({"in_channels": 2}, "expected at least 1 pixel, and 1 or 3 channels"),
        ({"std": [0.0]}, "std above 0"),
        ({"mean": [0.1, 0.2]}, "expected 1 values each"),
        ({"colour": 1}, "colour"),
    ],
)
def test_what_cannot_be_used_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preprocessor.from_dict(OWN.to_dict() | change)


@pytest.mark.parametrize("bad", [torch.zeros(1, 5, 5), torch.zeros(2, 5, 5).byte(), torch.zeros(1, 0, 5).byte()])
def test_what_is_no_picture_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        OWN(bad)


def test_characters_that_fill_the_image_come_back_as_they_are() -> None:
    """KMNIST's own images, as far as they can be told without the files: whatever has that size is one of them."""
    kmnist = Preprocessor(28, 1, (0.2,), (0.4,), "ink", 1.0)
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[:, 5:28, 3:9] = 200
    assert torch.equal(kmnist.frame(image), image)
    assert torch.equal(kmnist.frame(255 - image), image)
