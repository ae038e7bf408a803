"""The page for people who come from elsewhere is followed as it stands, on a made-up set in insightface's formats."""

import io
import pickle
import re
import shlex
from contextlib import suppress
from inspect import signature
from pathlib import Path

import pytest
from faces import face
from record_files import write_set

from arcface_pl.cli import main
from arcface_pl.data import MNISTDataModule, PairsDataModule, RecordDataModule
from arcface_pl.training.module import ArcFaceModule

PAGE = (Path(__file__).parents[2] / "arcface_pl" / "data" / "COMING_FROM.md").read_text(encoding="utf-8")
PEOPLE, PICTURES, SIZE = 10, 12, 40


def picture(person: int, number: int, seed: int = 0) -> bytes:
    file = io.BytesIO()
    face(person, number, SIZE, seed).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_its_commands_from_train_to_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_set(tmp_path / "faces_rec", [(picture(p, n), p) for p in range(PEOPLE) for n in range(PICTURES)])
    pairs = [(first, second, alike) for first in range(5) for second in range(4) for alike in (True, False)]
    strangers = [
        content
        for first, second, alike in pairs
        for content in (picture(first, second, 1), picture(first if alike else (first + 1) % 5, second + 4, 1))
    ]
    (tmp_path / "faces_rec" / "own.bin").write_bytes(pickle.dumps((strangers, [alike for *_, alike in pairs]), 2))
    (tmp_path / "one.jpg").write_bytes(picture(0, 20, 1))
    (tmp_path / "other.jpg").write_bytes(picture(0, 21, 1))
    (commands,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    said = []
    for command in commands.strip().splitlines():
        name, *words = shlex.split(command)
        assert name == "arcface-pl"
        with suppress(SystemExit):
            main(words)
        said.append(capsys.readouterr().out)
    assert "8 classes: 0, 1, 2, 3, 4, 5, 6, 7; 2 held out: 8, 9" in " ".join(said[0].replace("│", " ").split())
    for shape in (r"\[own\]XNorm: \d", r"\[own\]Accuracy-Flip: [01]\.\d{5}\+-", r"\[own\]TAR@FAR: [01]\.\d{5}\+-"):
        assert re.search(shape, said[1])
    assert "in the same class" in said[2]
    assert "cosine" in said[3]


def test_its_python_gives_both_losses_the_same_value(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("pytorch_metric_learning")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})
    ours, theirs = map(float, capsys.readouterr().out.split())
    assert ours == pytest.approx(theirs, rel=1e-5)  # at angles near 90 degrees, where the formulas agree


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_its_command_with_a_loss_a_miner_and_a_sampler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("pytorch_metric_learning")
    (command,) = re.findall(r"arcface-pl (fit .*TripletMarginLoss.*)", PAGE)
    monkeypatch.chdir(tmp_path)
    with suppress(SystemExit):
        main([*shlex.split(command), "--log_every_n_steps", "5"])
    assert "accuracy" in capsys.readouterr().out
    (config,) = tmp_path.glob("lightning_logs/*/config.yaml")
    text = config.read_text()
    assert "pytorch_metric_learning.losses.TripletMarginLoss" in text
    assert "margin: 0.2" in text
    (metrics,) = tmp_path.glob("lightning_logs/*/metrics.csv")
    assert "train/TripletMarginLoss" in metrics.read_text().splitlines()[0]
    saved = next(iter(tmp_path.glob("lightning_logs/*/checkpoints/best.ckpt")))
    again = tmp_path / "copied.ckpt"
    again.write_bytes(saved.read_bytes())
    with suppress(SystemExit):  # a copied checkpoint, without its config.yaml, has the losses too
        main(["fit", "--ckpt_path", str(again), "--max_epochs", "2", "--default_root_dir", str(tmp_path / "again")])
    assert "accuracy" in capsys.readouterr().out
    (config,) = tmp_path.glob("again/lightning_logs/*/config.yaml")
    assert "TripletMarginLoss" in config.read_text()


def test_every_setting_that_it_names_exists() -> None:
    classes = {"model": [ArcFaceModule], "data": [*RecordDataModule.__mro__, PairsDataModule, MNISTDataModule]}
    accepted = {
        root: {name for cls in kinds for name in signature(cls.__init__).parameters} for root, kinds in classes.items()
    }
    named = re.findall(r"--(model|data)\.(\w+)", PAGE)
    assert len(named) > 20
    for root, name in named:
        assert name in accepted[root], name
