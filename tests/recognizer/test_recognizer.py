from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arcface_pl import ArcFaceModule, Recognizer
from arcface_pl.errors import UserError


def test_embeddings_are_the_modules_own_at_length_one(
    recognizer: Recognizer, module: ArcFaceModule, images: torch.Tensor
) -> None:
    with torch.no_grad():
        expected = module((images.float() / 255 - 0.2) / 0.4).double()
    embeddings = recognizer.embed(images, framed=True)
    torch.testing.assert_close(embeddings.double(), expected / expected.norm(dim=1, keepdim=True), rtol=0, atol=1e-6)
    centers = module.head.weight.detach().double()
    cosine = (expected / expected.norm(dim=1, keepdim=True)) @ (centers / centers.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(recognizer.class_scores(images, framed=True).double(), cosine, rtol=0, atol=1e-6)
    answers = recognizer.classify(images, threshold=0.1, framed=True)
    assert [answer.name for answer in answers] == [f"class {index}" for index in cosine.argmax(1).tolist()]
    assert [answer.unknown for answer in answers] == (cosine.amax(1) < 0.1).tolist()


def test_a_file_a_tensor_and_an_open_picture_are_one(recognizer: Recognizer, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "picture.png")
    rows = recognizer.embed([tmp_path / "picture.png", picture, torch.from_numpy(pixels)[None]])
    assert rows[0].equal(rows[1])
    assert rows[0].equal(rows[2])
    assert recognizer.embed(str(tmp_path / "picture.png")).shape == (1, 16)
    assert recognizer.embed([]).shape == (0, 16)


def test_two_pictures(recognizer: Recognizer, images: torch.Tensor) -> None:
    pair = recognizer.embed(images[:2], framed=True).double()
    expected = float(pair[0] @ pair[1])
    cosine, angle, same = recognizer.verify(images[:1], images[1:2], framed=True)
    # Batches of one and two may be rounded apart: two float32 vectors of length one, each by some eps = 1.2e-7
    assert cosine == pytest.approx(expected, abs=1e-6)
    assert angle == pytest.approx(np.degrees(np.arccos(expected)), abs=1e-4)
    assert same is None  # nobody has measured a threshold
    assert recognizer.verify(images[:1], images[1:2], threshold=expected - 1e-3, framed=True).same is True
    assert recognizer.verify(images[:1], images[1:2], threshold=expected + 1e-3, framed=True).same is False
    assert recognizer.verify(images[:1], images[:1], framed=True).angle == 0


def test_names_come_and_go(recognizer: Recognizer, images: torch.Tensor) -> None:
    assert recognizer.identify(images[:1], framed=True)[0] == (None, [])
    assert recognizer.enroll("Ада/../../etc", images[:2], framed=True) == 2
    recognizer.enroll("b", images[2:4], framed=True)
    assert recognizer.enroll("b", images[4:5], framed=True) == 3
    unit = recognizer.embed(images, framed=True)
    means = torch.stack([unit[:2].mean(0), unit[2:5].mean(0)])
    scores = unit @ (means / means.norm(dim=1, keepdim=True)).T
    for row, answer in zip(scores, recognizer.identify(images, framed=True), strict=True):
        assert answer.name == ["Ада/../../etc", "b"][int(row.argmax())]
        torch.testing.assert_close(
            torch.tensor([match.score for match in answer.matches]), row.sort(descending=True).values
        )
    assert all(answer.name is None for answer in recognizer.identify(images, threshold=1.0, framed=True))
    recognizer.remove("b")
    assert recognizer.names == ["Ада/../../etc"]
    with pytest.raises(UserError, match="'b'"):
        recognizer.remove("b")


def test_thresholds_measured_on_pictures_decide(recognizer: Recognizer, images: torch.Tensor) -> None:
    labels = [f"class {index % 4}" for index in range(12)]
    found = recognizer.calibrate(images, labels, far=0.25, source="mine", framed=True)
    unit = recognizer.embed(images, framed=True)
    rows, columns = torch.triu_indices(12, 12, offset=1)
    scores, genuine = (unit @ unit.T)[rows, columns], rows % 4 == columns % 4
    assert recognizer.thresholds.verification == found.verification.threshold
    accepted = scores >= found.verification.threshold - 1e-6
    assert found.verification.far == pytest.approx(float(accepted[~genuine].float().mean()), abs=1 / 54)
    assert found.verification.tar == pytest.approx(float(accepted[genuine].float().mean()))
    assert found.verification.far <= 0.25
