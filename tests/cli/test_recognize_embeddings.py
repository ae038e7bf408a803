"""``arcface-pl recognize`` and `Recognizer` with embeddings that were computed elsewhere, with a model and without."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from tiny_runs import save_model

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, Recognizer
from arcface_pl.cli import main
from arcface_pl.errors import GalleryError, PretrainedError, UserError
from arcface_pl.evaluation.thresholds import Scored, calibrate
from arcface_pl.recognizer import Embeddings

DRAW = np.random.default_rng(0)
NAMES = np.array(["ann", "bob", "cleo"])
LABELS = np.arange(12) % 3
CENTERS = DRAW.normal(size=(3, 8))
ROWS = ((CENTERS[LABELS] + 0.3 * DRAW.normal(size=(12, 8))) * 5).astype(np.float32)  # not of length 1
QUERIES = (CENTERS + 0.3 * DRAW.normal(size=(3, 8))).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


DIRECTIONS = unit(np.stack([unit(ROWS)[label == LABELS].mean(0) for label in range(3)]))
"""Mean directions of the three names."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("people.npz", embeddings=ROWS, labels=LABELS, classes=NAMES[LABELS])
    np.savez("queries.npz", embeddings=QUERIES)
    return tmp_path


def call(capsys: pytest.CaptureFixture, *words: str) -> Any:
    """Run a command; return what it prints as JSON, or the message of an error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*words, *(["--json"] if words[0] == "recognize" else [])])
    told = capsys.readouterr()
    if (ended.value.code or 0) == 2:
        assert told.err.count("\n") == 1
        return told.err
    return json.loads(told.out) if words[0] == "recognize" else told.out


def test_a_gallery_of_embeddings_without_a_model(place: Path, capsys: pytest.CaptureFixture) -> None:
    space = ("--made_by", "sface")
    told = call(capsys, "recognize", "enroll", "people.npz", *space)
    assert told == [{"name": name, "enrolled": 4, "images": 4} for name in NAMES]
    answers = call(capsys, "recognize", "identify", "people.npz", "queries.npz", *space)
    assert [each["file"] for each in answers] == ["queries.npz[0]", "queries.npz[1]", "queries.npz[2]"]
    assert [each["name"] for each in answers] == NAMES.tolist()
    cosines = unit(QUERIES) @ DIRECTIONS.T
    np.testing.assert_allclose([each["cosine"] for each in answers], cosines.max(1), atol=2e-6)  # six decimals
    assert call(capsys, "recognize", "list", "people.npz", *space)[0] == {"name": "ann", "images": 4}
    found = call(capsys, "recognize", "calibrate", "people.npz", "--far", "0.1", *space)
    own = Scored(torch.from_numpy(ROWS), torch.from_numpy(LABELS), *torch.zeros(2, 12))
    wanted = calibrate(None, own, far=0.1, source="x").verification.threshold
    assert found[0]["threshold"] == pytest.approx(wanted, abs=1e-6)  # float32 cosines
    recognizer = Recognizer.for_embeddings(8, "sface")
    recognizer.load_gallery("gallery")
    assert recognizer.gallery.counts == dict.fromkeys(NAMES, 4)
    strict = call(capsys, "recognize", "identify", "people.npz", "queries.npz", *space)  # by people.thresholds.json
    assert [each["unknown"] for each in strict] == [each["cosine"] < found[0]["threshold"] for each in strict]


def test_every_form_of_file_is_enrolled(place: Path, capsys: pytest.CaptureFixture) -> None:
    for folder in ("numbers", "texts", "tensors"):
        Path(folder).mkdir()
    np.save("numbers/embeddings.npy", ROWS.astype(np.float64))
    np.save("numbers/labels.npy", LABELS)
    np.save("texts/embeddings.npy", ROWS)
    np.save("texts/labels.npy", NAMES[LABELS])
    about = {"class_names": json.dumps(NAMES.tolist()), "made_by": "sface"}
    save_file({"embeddings": ROWS, "labels": LABELS}, "tensors/embeddings.safetensors", about)
    answers = {}
    for form in ("people.npz", "numbers", "texts/embeddings.npy", "texts", "tensors"):
        gallery = ["--gallery", f"gallery of {form.replace('/', ' ')}", "--made_by", "sface"]
        call(capsys, "recognize", "enroll", form, *gallery)
        told = call(capsys, "recognize", "identify", form, "queries.npz", *gallery)
        answers[form] = [(each["name"], each["cosine"]) for each in told]
    of_numbers = answers.pop("numbers")
    assert [name for name, _ in of_numbers] == ["0", "1", "2"]
    assert all(answer == answers["people.npz"] for answer in answers.values())
    assert [cosine for _, cosine in of_numbers] == [cosine for _, cosine in answers["texts"]]


@pytest.fixture
def pictures(place: Path) -> Path:
    torch.manual_seed(0)
    facts = {"class_names": list("abcd"), "normalization": ((0.2,), (0.4,))}
    for number in range(2):
        save_model(ArcFaceModule(FastCNN(8, width=4), ArcFaceHead(8, 4)), f"{number}.ckpt", **facts)
    for index, name in enumerate(("ada", "eve")):
        (place / "faces" / name).mkdir(parents=True)
        for number in range(3):
            stripes = np.indices((28, 28))[index] % 4 < 2
            pixels = (stripes * 150 + DRAW.integers(0, 60, (28, 28))).astype(np.uint8)
            Image.fromarray(pixels).save(place / "faces" / name / f"{number}.png")
    return place


def test_embeddings_of_the_model_are_as_good_as_its_pictures(pictures: Path, capsys: pytest.CaptureFixture) -> None:
    call(capsys, "recognize", "enroll", "0.ckpt", "faces", "--gallery", "of pictures")
    for suffix in ("npz", "safetensors", "parquet"):
        if suffix == "parquet":
            pytest.importorskip("pyarrow")
        for name in ("ada", "eve"):
            call(capsys, "embed", "0.ckpt", f"faces/{name}", "--output", f"{name}.{suffix}")
            call(
                capsys,
                *("recognize", "enroll", "0.ckpt", f"{name}.{suffix}", "--name", name, "--gallery", f"of {suffix}"),
            )
        answers = [
            call(capsys, "recognize", "identify", "0.ckpt", given, "--gallery", gallery, "--threshold", "-1")
            for given in ("faces/eve", f"eve.{suffix}")
            for gallery in ("of pictures", f"of {suffix}")
        ]
        assert len(answers[0]) == 3
        assert answers.count(answers[0]) == 4  # files and paths included
        # and the file itself stands for the model
        assert call(capsys, "recognize", "list", f"ada.{suffix}", "--gallery", "of pictures")[0]["images"] == 3
    np.savez("one.npz", embeddings=np.load("ada.npz")["embeddings"][:1])
    pair = ("faces/ada/0.png", "faces/ada/1.png")
    wanted = call(capsys, "recognize", "verify", "0.ckpt", *pair, "--threshold", "0.5")
    assert wanted == call(
        capsys, "recognize", "verify", "0.ckpt", "one.npz", pair[1], "--made_by", "0.ckpt", "--threshold", "0.5"
    )


def test_spaces_are_not_mixed(pictures: Path, capsys: pytest.CaptureFixture) -> None:
    call(capsys, "embed", "0.ckpt", "faces/ada", "--output", "ada.npz")
    call(capsys, "embed", "0.ckpt", "faces/ada", "--output", "flipped.npz", "--flip")
    call(capsys, "recognize", "enroll", "people.npz", "--made_by", "sface", "--gallery", "sface")
    call(capsys, "recognize", "enroll", "0.ckpt", "faces/ada", "--gallery", "of 0")
    np.savez("narrow.npz", embeddings=ROWS[:, :5], labels=LABELS)
    for words, said in (
        (["enroll", "people.npz"], "people.npz: made_by: got None; expected the name of what made these"),
        (["enroll", "0.ckpt", "people.npz"], "people.npz: made_by: got None; .*Give --made_by 0.ckpt"),
        (["identify", "0.ckpt", "people.npz", "--gallery", "of 0"], "made_by: got None; .*Give --made_by 0.ckpt"),
        (["enroll", "0.ckpt", "people.npz", "--made_by", "sface"], "made_by: got 'sface'; expected [0-9a-f]{12}..."),
        (["enroll", "1.ckpt", "ada.npz", "--name", "ada"], "embeddings: made_by: got '[0-9a-f]{12}...'; expected"),
        (["enroll", "0.ckpt", "flipped.npz", "--name", "ada"], "made_by: got '[0-9a-f]{12}..., with mirror images'"),
        (["enroll", "0.ckpt", "ada.npz"], "labels: got -1; expected the class of every row"),
        (["enroll", "0.ckpt", "narrow.npz", "--made_by", "0.ckpt"], r"got 'float32 \(12, 5\)'; .*\(N, 8\)"),
        (["identify", "people.npz", "queries.npz", "--made_by", "arcface", "--gallery", "sface"], "another model"),
        (["list", "narrow.npz", "--made_by", "sface", "--gallery", "sface"], "embedding_dim: got 8; expected 5"),
        (["identify", "0.ckpt", "ada.npz", "--gallery", "sface"], "another model"),
        (["enroll", "people.npz", "faces", "--made_by", "sface"], "images: got 'pictures'; expected embeddings made"),
        (["verify", "people.npz", "queries.npz", "queries.npz", "--made_by", "sface"], "got '3 embeddings'"),
        (["enroll", "people.npz", "--made_by", "sface", "--model.backbone", "FastCNN"], "not accepted with embeddings"),
        (["identify", "people.npz", "--made_by", "sface"], "identify: arguments: got 0; expected at least 1"),
    ):
        message = call(capsys, "recognize", *words, "--threshold", "0.5")  # no note about one
        assert isinstance(message, str), words
        assert re.search(said, message), message
    assert not Path("gallery").exists()


def test_from_python(place: Path) -> None:
    recognizer = Recognizer.for_embeddings(8, "sface")
    for label, name in enumerate(NAMES):
        recognizer.enroll(name, Embeddings(ROWS[label == LABELS]))
    for rows in (QUERIES, torch.from_numpy(QUERIES), QUERIES.astype(np.float16)):
        answers = recognizer.identify(Embeddings(rows, "sface"))
        cosines = unit(np.asarray(rows, np.float64)) @ DIRECTIONS.T
        assert [each.name for each in answers] == NAMES.tolist()
        np.testing.assert_allclose([each.matches[0].score for each in answers], cosines.max(1), atol=1e-6)
    assert recognizer.identify(Embeddings(QUERIES[1]))[0].name == "bob"
    assert recognizer.verify(Embeddings(QUERIES[0]), Embeddings(QUERIES[0] * 7)).angle == pytest.approx(0, abs=1e-3)
    recognizer.calibrate(Embeddings(ROWS), NAMES[LABELS].tolist(), far=0.1, source="people")
    assert recognizer.thresholds.verification is not None
    recognizer.save_gallery("gallery")
    again = Recognizer.for_embeddings(8, "sface")
    again.load_gallery("gallery")
    assert again.gallery.counts == recognizer.gallery.counts
    with pytest.raises(GalleryError, match="another model"):
        Recognizer.for_embeddings(8, "arcface").load_gallery("gallery")
    with pytest.raises(PretrainedError, match="no network"):
        recognizer.save_pretrained("model")
    for given, said in (
        (Embeddings(QUERIES, "arcface"), "made_by: got 'arcface'; expected sface"),
        (Embeddings(QUERIES[:, :4]), r"got 'float32 \(3, 4\)'"),
        (Embeddings(QUERIES.astype(int)), "got 'int64"),
        (Embeddings(QUERIES * np.array([[1], [0], [1]], np.float32)), "row 1: got 'a length of 0'"),
        (Embeddings(QUERIES * np.array([[1], [1], [np.inf]], np.float32)), "row 2: got 'NaN or inf'"),
        (Image.new("L", (8, 8)), "got 'pictures'; expected embeddings made by sface"),
    ):
        with pytest.raises(UserError, match=said):
            recognizer.identify(given)
    with pytest.raises(UserError, match="made_by: got ''"):
        Recognizer.for_embeddings(8, "")
    with pytest.raises(ValueError, match="labels: got '2 labels'; expected 12"):
        recognizer.calibrate(Embeddings(ROWS), ["a", "b"], source="people")
