"""``scripts/lfw.py`` on made-up faces: who is trained on, and how a fold is scored."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from faces import write_faces

SCRIPT = Path(__file__).parents[2] / "scripts" / "lfw.py"


@pytest.fixture
def lfw() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lfw", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Twelve people of five images; three folds of three people each, so that three people are in no fold."""
    write_faces(tmp_path / "lfw", people=12, pictures=5, size=24)
    lines = ["3\t6"]
    for fold in range(3):
        names = [f"Person_{3 * fold + number:03d}" for number in range(3)]
        lines += [f"{name}\t{a}\t{a + 1}" for name in names for a in (1, 3)]
        lines += [f"{names[n % 3]}\t{1 + n % 5}\t{names[(n + 1) % 3]}\t{1 + n % 4}" for n in range(6)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    return tmp_path


def test_nobody_of_the_test_fold_or_the_next_is_trained_on(lfw: ModuleType, place: Path) -> None:
    faces = lfw.read_faces(place / "lfw", 16)
    folds = lfw.folds_of(place / "pairs.txt", faces)
    assert [len(fold) for fold in folds] == [12, 12, 12]
    left_out = lfw.people_of(folds[2] + folds[0])
    assert left_out == {f"Person_{number:03d}" for number in (0, 1, 2, 6, 7, 8)}
    people = lfw.People.of(faces, left_out, least=2)
    people.setup("fit")
    kept = [number for number in range(12) if f"Person_{number:03d}" not in left_out]
    whole = faces.images.images.view(12, 5, 1, 16, 16)[kept].flatten(0, 1)
    assert people._loaded.train.images.equal(whole)
    assert people._loaded.train.labels.tolist() == [label for label in range(6) for _ in range(5)]


def test_the_next_fold_chooses_the_threshold(lfw: ModuleType, place: Path) -> None:
    torch.manual_seed(0)
    faces = lfw.read_faces(place / "lfw", 16)
    folds = lfw.folds_of(place / "pairs.txt", faces)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 8))
    found = lfw.measure(network, faces, folds[1], folds[0])

    def scored(pairs: list) -> tuple[np.ndarray, np.ndarray]:
        cosines = []
        for pair in pairs:
            sides = []
            for name, number in (pair.first, pair.second):
                image = faces.images.images[int(name[-3:]) * 5 + number - 1].double().numpy() / 255 * 2 - 1
                weight, bias = (each.detach().double().numpy() for each in network[1].parameters())
                sides.append(sum(weight @ each.ravel() + bias for each in (image, image[..., ::-1])))
            cosines.append(sides[0] @ sides[1] / np.linalg.norm(sides[0]) / np.linalg.norm(sides[1]))
        return np.array(cosines), np.array([pair.is_genuine for pair in pairs])

    (chooses, kind), (tests, truth) = scored(folds[1]), scored(folds[0])
    cuts = [*((np.sort(chooses)[1:] + np.sort(chooses)[:-1]) / 2), np.inf]
    best = max(((chooses >= cut) == kind).sum() for cut in cuts)
    threshold = [cut for cut in cuts if ((chooses >= cut) == kind).sum() == best][-1]  # the strictest
    assert found["accuracy"] == ((tests >= threshold) == truth).mean()
    if np.isfinite(threshold):
        assert found["threshold"] == pytest.approx(threshold, abs=1e-5)


def test_a_missing_image_is_named_before_any_training(lfw: ModuleType, place: Path) -> None:
    (place / "lfw/Person_004/Person_004_0002.jpg").unlink()
    faces = lfw.read_faces(place / "lfw", 16)
    with pytest.raises(SystemExit, match="1 images are not in --images, such as Person_004/Person_004_0002"):
        lfw.folds_of(place / "pairs.txt", faces)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_it_runs_from_the_official_layout_and_continues(
    lfw: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_faces(place / "orl", people=3, pictures=4, size=24, seed=1)
    words = ["--images", "lfw", "--pairs", "pairs.txt", "--orl", "orl", "--epochs", "1", "--image_size", "16"]
    words += ["--precision", "32-true", "--figure", "curves.png"]
    monkeypatch.chdir(place)
    for folds in (["1"], ["1", "2"]):
        monkeypatch.setattr(sys, "argv", ["lfw.py", *words, "--folds", *folds])
        lfw.main()
    rows = json.loads((place / "lfw.json").read_text())
    assert [(row["fold"], row["head"]) for row in rows] == [
        (1, "softmax"), (1, "ArcFace"), (2, "softmax"), (2, "ArcFace"),
    ]  # fmt: skip
    assert all(0 <= row[name] <= 1 for row in rows for name in ("accuracy", "eer", "orl_eer"))
    assert (place / "curves.png").stat().st_size > 10_000
    assert "| ArcFace | 2 |" in capsys.readouterr().out
