"""``scripts/faces/lfw.py`` on made-up faces: who is trained on, what chooses the settings, and how a fold is scored."""

import json
import statistics
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from faces import write_faces

FOLDER = Path(__file__).parents[2] / "scripts" / "faces"


@pytest.fixture
def lfw(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("lfw", "lfw_report", "view2"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import lfw

    return lfw


@pytest.fixture
def view2(lfw: ModuleType) -> ModuleType:
    return sys.modules["view2"]


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


def test_nobody_of_the_test_fold_or_the_next_is_trained_on(view2: ModuleType, place: Path) -> None:
    faces = view2.read_faces(place / "lfw", 16)
    folds = view2.folds_of(place / "pairs.txt", faces)
    assert [len(fold) for fold in folds] == [12, 12, 12]
    left_out = view2.people_of(folds[2] + folds[0])
    assert left_out == {f"Person_{number:03d}" for number in (0, 1, 2, 6, 7, 8)}
    people = view2.People.of(faces, left_out, least=2)
    people.setup("fit")
    kept = [number for number in range(12) if f"Person_{number:03d}" not in left_out]
    whole = faces.images.images.view(12, 5, 1, 16, 16)[kept].flatten(0, 1)
    assert people._loaded.train.images.equal(whole)
    assert people._loaded.train.labels.tolist() == [label for label in range(6) for _ in range(5)]


def test_the_next_fold_chooses_the_threshold(view2: ModuleType, place: Path) -> None:
    torch.manual_seed(0)
    faces = view2.read_faces(place / "lfw", 16)
    folds = view2.folds_of(place / "pairs.txt", faces)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 8))
    found = view2.measure(network, faces, folds[1], folds[0])

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


def test_a_missing_image_is_named_before_any_training(view2: ModuleType, place: Path) -> None:
    (place / "lfw/Person_004/Person_004_0002.jpg").unlink()
    faces = view2.read_faces(place / "lfw", 16)
    with pytest.raises(SystemExit, match="1 images are not in --images, such as Person_004/Person_004_0002"):
        view2.folds_of(place / "pairs.txt", faces)


def row(lfw: ModuleType, recipe: object, seed: int, eer: float, fold: int = 0, **scores: float) -> dict:
    """A finished run, made up."""
    return {"fold": fold, "seed": seed, **recipe._asdict(), "choice_eer": eer, **scores}


def test_each_stage_starts_from_the_choice_of_the_one_before(lfw: ModuleType) -> None:
    start = lfw.START["ArcFace"]
    wide = start._replace(network="SmallResNet, width 64", epochs=40)
    rows = [row(lfw, each, 0, 0.1 if each == wide else 0.2) for each in lfw.networks(start)]
    assert lfw.settle(rows, "ArcFace", lfw.STAGES[:1]) == wide
    assert lfw.settle(rows, "softmax", lfw.STAGES) == lfw.START["softmax"]
    steep = wide._replace(scale=32.0, margin=0.3)
    rows += [row(lfw, steep, 0, 0.09), row(lfw, steep._replace(margin=0.1), 0, 0.12)]
    assert lfw.settle(rows, "ArcFace", lfw.STAGES[:2]) == steep
    fast = steep._replace(lr=2 * steep.lr)
    assert lfw.settle([*rows, row(lfw, fast, 0, 0.08)], "ArcFace", lfw.STAGES) == fast


def test_a_recipe_of_fewer_seeds_is_not_chosen(lfw: ModuleType) -> None:
    once, twice, other = (lfw.START["softmax"]._replace(scale=scale) for scale in (8.0, 16.0, 32.0))
    rows = [row(lfw, once, 0, 0.01)]
    rows += [row(lfw, recipe, seed, eer) for recipe, eer in ((twice, 0.1), (other, 0.2)) for seed in (0, 1)]
    assert lfw.best(rows, [once, twice, other], once) == twice


def test_a_run_is_repeated_with_other_settings_only(lfw: ModuleType, tmp_path: Path) -> None:
    start, size = lfw.START["ArcFace"], {"image_size": 64}
    there = row(lfw, start, 0, 0.1, fold=3, **size)
    smaller = row(lfw, start, 1, 0.1, fold=3, image_size=32)
    (tmp_path / "lfw.json").write_text(json.dumps([there, smaller]))
    results = lfw.Results(tmp_path / "lfw.json", size)
    runs = [lfw.Run(3, 0, start), lfw.Run(3, 1, start), lfw.Run(4, 0, start), lfw.Run(3, 0, start._replace(lr=0.1))]
    assert results.of(runs) == {runs[0]: there}
    results.add(row(lfw, start, 1, 0.2, fold=3, **size))
    assert len(results.of(runs)) == 2
    assert len(json.loads((tmp_path / "lfw.json").read_text())) == 3


def test_the_error_is_that_of_folds_after_the_mean_over_seeds(lfw: ModuleType) -> None:
    values = {(1, 0): 0.80, (1, 1): 0.82, (2, 0): 0.9, (2, 1): 0.92, (3, 0): 0.86, (3, 1): 0.86}
    rows = [row(lfw, lfw.START["ArcFace"], seed, 0.1, fold, accuracy=value) for (fold, seed), value in values.items()]
    folds = [81.0, 91.0, 86.0]
    expected = f"{statistics.mean(folds):.2f} ± {statistics.stdev(folds) / 3**0.5:.2f}"
    lines = lfw.table(rows, 2).splitlines()
    assert lines[2] == f"| ArcFace | 3 | 2 | {expected} |  |  |  |"
    assert lines[3].startswith("| ArcFace, without fold 2 | 2 | 2 | 83.50 ± 2.50 |")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_it_runs_from_the_official_layout_and_continues(
    lfw: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_faces(place / "orl", people=3, pictures=4, size=24, seed=1)
    given = ["--images", "lfw", "--pairs", "pairs.txt", "--image_size", "16", "--precision", "32-true"]
    monkeypatch.chdir(place)
    tiny = lfw.FastCNN
    monkeypatch.setattr(lfw, "NETWORKS", {"FastCNN, width 32": lambda *sizes: tiny(*sizes, width=4)})
    monkeypatch.setattr(lfw, "EPOCHS", (1,))
    monkeypatch.setattr(lfw, "LOSSES", {"softmax": [(0.0, 0.0), (8.0, 0.0)], "ArcFace": [(8.0, 0.2)]})

    def call(*words: str) -> list[dict]:
        monkeypatch.setattr(sys, "argv", ["lfw.py", *words, *given])
        lfw.main()
        return json.loads(Path(words[words.index("--json") + 1]).read_text())

    chosen = call("choose", "--json", "choice.json")
    assert [row["head"] for row in chosen] == ["softmax", "ArcFace"] + ["softmax"] * 2 + ["ArcFace"] + [
        head for head in ("softmax", "ArcFace") for _ in (2.0, 0.5)
    ]
    assert {row["fold"] for row in chosen} == {0}
    assert {row["people"] for row in chosen} == {6}
    assert call("choose", "--json", "choice.json") == chosen
    for folds in (["1"], ["1", "2"]):
        rows = call("test", "--choice", "choice.json", "--json", "lfw.json", "--orl", "orl", "--figure", "curves.png",
                    "--folds", *folds)  # fmt: skip
    assert [(row["fold"], row["head"]) for row in rows] == [
        (1, "softmax"), (1, "ArcFace"), (2, "softmax"), (2, "ArcFace"),
    ]  # fmt: skip
    assert all(0 <= row[name] <= 1 for row in rows for name in ("accuracy", "eer", "orl_eer"))
    assert (place / "curves.png").stat().st_size > 10_000
    assert "| ArcFace | 2 | 1 |" in capsys.readouterr().out
