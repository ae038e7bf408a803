"""``predict CKPT IMAGE...`` on pictures of one's own."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_runs import SMALL_NETWORK

from arcface_pl import MNISTDataModule
from arcface_pl.cli import main
from arcface_pl.recognizer import Recognizer


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    flags = "--data.dataset digits --max_epochs 2 --accelerator cpu --trainer.logger false --enable_progress_bar false"
    main(["fit", *flags.split(), *SMALL_NETWORK, "--default_root_dir", str(folder)])
    return next(folder.rglob("best.ckpt"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    data = MNISTDataModule(dataset="digits")
    data.prepare_data()
    data.setup("test")
    images, _ = data.test_dataloader().data
    (folder / "inside").mkdir()
    for index in range(4):
        Image.fromarray(255 - images[index, 0].numpy()).save(folder / "inside" / f"{index}.png")
    (folder / "inside" / "notes.txt").write_text("no picture")
    return folder


def predict(capsys: pytest.CaptureFixture, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, words)])
    return int(ended.value.code or 0), *capsys.readouterr()


def test_json_holds_what_the_recognizer_says_in_order(
    trained: Path, pictures: Path, capsys: pytest.CaptureFixture
) -> None:
    wanted = [pictures / "inside" / f"{index}.png" for index in (2, 0, 2)]
    code, out, _ = predict(capsys, trained, *wanted, "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["file"] for row in rows] == [str(path) for path in wanted]
    for row, answer in zip(rows, Recognizer.from_checkpoint(trained).classify(wanted), strict=True):
        assert list(row) == ["file", "label", "cosine", "angle_degrees", "unknown"]
        assert (row["label"], row["unknown"]) == (answer.name, answer.unknown)
        assert row["cosine"] == pytest.approx(answer.cosine, abs=1e-6)
        assert math.cos(math.radians(row["angle_degrees"])) == pytest.approx(row["cosine"], abs=1e-9)


@pytest.mark.parametrize("word", ["", "inside", "**/*.png"])
def test_folders_and_patterns_stand_for_their_pictures(
    word: str, trained: Path, pictures: Path, capsys: pytest.CaptureFixture
) -> None:
    code, out, _ = predict(capsys, trained, pictures / word, "--json")
    assert code == 0
    assert [Path(row["file"]).name for row in json.loads(out)] == ["0.png", "1.png", "2.png", "3.png"]


def test_a_file_that_cannot_be_read_is_reported_and_the_others_go_on(
    trained: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    Image.new("L", (50, 50), 230).save(tmp_path / "blank.png")
    words = (trained, tmp_path / "gone.png", pictures / "inside" / "1.png", tmp_path / "blank.png")
    code, out, _ = predict(capsys, *words, "--json")
    gone, fine, blank = json.loads(out)
    assert code == 1
    assert (gone["error"], blank["error"]) == ("there is no such file", "nothing is drawn there")
    assert list(gone) == ["file", "error"]
    assert "error" not in fine
    code, out, _ = predict(capsys, *words, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 1
    assert [row["error"] for row in rows] == ["there is no such file", "", "nothing is drawn there"]
    assert float(rows[1]["cosine"]) == fine["cosine"]
    code, out, _ = predict(capsys, *words)
    assert code == 1
    assert "nothing is drawn" in out


def test_a_threshold_that_rejects_nearly_all_is_told(
    trained: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    content = torch.load(trained, weights_only=True)
    content["calibration"]["classification"] |= {"threshold": 0.999, "tar": 0.01}
    torch.save(content, tmp_path / "strict.ckpt")
    _, _, told = predict(capsys, tmp_path / "strict.ckpt", pictures, "--json")
    assert told.startswith("NOTE: the threshold for known classes (0.999) accepts only 1.0% of the images")
    assert told.count("\n") == 1
    assert "NOTE" not in predict(capsys, tmp_path / "strict.ckpt", pictures, "--json", "--threshold", 0.5)[2]


def test_long_names_are_folded_and_not_cut(
    trained: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / f"{'long' * 30}.png"
    path.write_bytes((pictures / "inside" / "0.png").read_bytes())
    _, out, _ = predict(capsys, trained, path)
    first = "".join(line.split("\u2502")[1].strip() for line in out.splitlines() if line.startswith("\u2502"))
    assert first == str(path)


def test_threshold_decides_what_is_unknown(trained: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    for threshold, expected in ((-1, False), (1, True)):
        _, out, _ = predict(capsys, trained, pictures, "--json", "--threshold", threshold)
        assert [row["unknown"] for row in json.loads(out)] == [expected] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.ckpt", "a.png"], "There is no such file"),
        (["unread.ckpt"], "IMAGE"),
        (["unread.ckpt", "a.png", "--threshold", "2"], "--threshold: got '2'; expected a cosine in [-1, 1]"),
        (["unread.ckpt", "a.png", "--json", "--csv"], "not allowed with"),
        (["unread.ckpt", "*.nothing"], "no file matches this one"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("unread.ckpt").touch()
    code, out, err = predict(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
