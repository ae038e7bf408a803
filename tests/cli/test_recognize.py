import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import save_model

from arcface_pl import ArcFaceHead, ArcFaceModule, Recognizer, SimpleCNN
from arcface_pl.cli import main
from arcface_pl.cli.inputs import FramedPictures, read_pictures
from arcface_pl.cli.recognize import _print


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = ArcFaceModule(SimpleCNN(16), ArcFaceHead(16, 4))
    facts = {"class_names": list("abcd"), "normalization": ((0.2,), (0.4,)), "dataset_name": "fashion_mnist"}
    save_model(module, tmp_path / "m.ckpt", **facts)
    draw = np.random.default_rng(0)
    for index, name in enumerate(("people/ada", "people/grace hopper")):
        (tmp_path / name).mkdir(parents=True)
        for number in range(3):
            # Stripes one way or the other, with noise
            stripes = np.indices((32, 32))[index] % 4 < 2
            pixels = (stripes * 150 + draw.integers(0, 60, (32, 32))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["recognize", *words])
    return int(ended.value.code or 0)


def test_enrol_identify_remove(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    assert call("enroll", "m.ckpt", "people", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "ada", "enrolled": 3, "images": 3},
        {"name": "grace hopper", "enrolled": 3, "images": 3},
    ]
    (workplace / "bad.png").write_bytes(b"no picture")
    assert call("identify", "m.ckpt", "people/ada", "people/grace hopper", "bad.png", "--json") == 1
    told = capsys.readouterr()
    answers = json.loads(told.out)
    assert [each.get("name") for each in answers] == ["ada"] * 3 + ["grace hopper"] * 3 + [None]
    assert set(answers[-1]) == {"file", "error"}
    assert "has no threshold" in told.err
    assert call("identify", "m.ckpt", "people/ada/0.png", "--threshold", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["unknown"] is True
    assert call("remove", "m.ckpt", "ada") == 0
    capsys.readouterr()
    assert call("list", "m.ckpt", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "grace hopper", "images": 3}]


def test_the_table_is_for_reading(capsys: pytest.CaptureFixture) -> None:
    _print([{"name": "ada", "unknown": False, "cosine": 1.0}, {"name": None, "unknown": True, "cosine": 0.25}], [])
    rows = [line.replace("\u2502", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["ada", "no", "1.0000"] in rows
    assert ["yes", "0.2500"] in rows


def test_pictures_patterns_and_tables_are_enrolled_as_folders_are(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    (workplace / "people.csv").write_text(
        "path;label\n"
        + "".join(
            f"people/{name}/{number}.png;{name}\n" for name in ("ada", "grace hopper") for number in (0, 1, 2, 2)
        )  # a file that is listed twice counts once
    )
    (workplace / "elsewhere").mkdir()
    (workplace / "elsewhere" / "ada.csv").write_text("label,path\nada,../people/ada/0.png\nada,missing.png\n")
    assert call("enroll", "m.ckpt", "people") == 0
    (workplace / "gallery").rename(workplace / "folders")
    for inputs in (
        ["people.csv"],
        ["people/grace hopper", "people/ada/*.png"],
        ["people/ada/0.png", "people/ada/1.png"],
    ):
        names = ["--name", "ada"] if "people.csv" not in inputs else []
        capsys.readouterr()
        assert (
            call("enroll", "m.ckpt", *inputs, *names, "--json", "--gallery", "of_" + inputs[0].replace("/", "_")) == 0
        )
        told = json.loads(capsys.readouterr().out)
        if names:
            assert told == [{"name": "ada", "enrolled": 6 if "*" in inputs[1] else 2} | {"images": told[0]["enrolled"]}]
    folders, table = Recognizer.from_checkpoint("m.ckpt"), Recognizer.from_checkpoint("m.ckpt")
    folders.load_gallery("folders")
    table.load_gallery("of_people.csv")
    assert table.gallery.counts == folders.gallery.counts == {"ada": 3, "grace hopper": 3}
    for picture in ("people/ada/0.png", "people/grace hopper/2.png"):
        assert table.identify(picture) == folders.identify(picture)
    assert call("enroll", "m.ckpt", "elsewhere/ada.csv", "--gallery", "third", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told[0] == {"name": "ada", "enrolled": 1, "images": 1}
    assert told[1]["file"] == str(Path("elsewhere/missing.png"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path\na.png\n", "bad.csv: got \"no column 'label'\"; expected one among its columns path"),
        ("path,label\n", "expected a row per image"),
        ("path,label\na.png,\n", "bad.csv, row 2: label: got ''; expected a value in every row"),
        ("path,label\na.png,x\na.png,y\n", "expected one label per file"),
    ],
)
def test_a_bad_table_is_one_line_without_settings_of_data_modules(
    text: str, said: str, workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    (workplace / "bad.csv").write_text(text)
    assert call("enroll", "m.ckpt", "bad.csv") == 2
    told = capsys.readouterr().err
    assert said in told
    assert "data." not in told
    assert told.count("\n") == 1
    assert not (workplace / "gallery").exists()


def test_calibrate_keeps_a_threshold_that_verify_uses(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    assert call("calibrate", "m.ckpt", "people", "--far", "0.1", "--json") == 0
    threshold = json.loads(capsys.readouterr().out)[0]["threshold"]
    assert Recognizer.from_checkpoint("m.ckpt").thresholds.verification == threshold
    assert call("verify", "m.ckpt", "people/ada/0.png", "people/grace hopper/0.png", "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["same"] is (answer["cosine"] >= threshold)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["identify", "m.ckpt", "people/ada"], "gallery.json: there is no such file"),
        (["verify", "m.ckpt", "one.png"], "verify: arguments: got 1; expected 2 after the model"),
        (["enroll", "m.ckpt", "nowhere"], "INPUT: got 'nowhere'; expected a folder of pictures"),
        (["enroll", "m.ckpt", "people/ada/0.png"], "To enroll pictures, give --name NAME"),
        (["enroll", "m.ckpt", "people/ada/0.png", "--name", ""], "--name: got ''; expected a name"),
        (["list", "m.ckpt", "--name", "ada"], "--name: got 'ada'; expected no such flag with list"),
        (["list", "none.ckpt"], "There is no such file"),
        (["list", "m.ckpt", "--threshold", "2"], "--threshold: got '2'; expected a cosine in [-1, 1]"),
        (["dance", "m.ckpt"], "invalid choice"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], told: str, workplace: Path, capsys: pytest.CaptureFixture) -> None:
    assert call(*words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_calibrate_keeps_the_threshold_in_the_model_that_was_measured(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, newer = (workplace / f"lightning_logs/version_{number}/checkpoints/best.ckpt" for number in range(2))
    first.parent.mkdir(parents=True)
    shutil.copy("m.ckpt", first)
    os.utime(first, (1, 1))

    def read_while_another_run_saves(*given: Any) -> FramedPictures:
        newer.parent.mkdir(parents=True)
        shutil.copy("m.ckpt", newer)
        return read_pictures(*given)

    monkeypatch.setattr("arcface_pl.cli.recognize_actions.read_pictures", read_while_another_run_saves)
    assert call("calibrate", "best", "people", "--far", "0.1") == 0
    assert newer.read_bytes() == Path("m.ckpt").read_bytes()
    assert Recognizer.from_checkpoint(first).thresholds.verification is not None


def test_a_process_without_a_standard_output_works_all_the_same(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert call("enroll", "m.ckpt", "people", "--json") == 0
    assert (workplace / "gallery" / "gallery.json").is_file()


def test_what_tells_names_apart_is_shown_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = "a_product_with_a_name_of_forty_characters"
    rows = [{"file": f"data/{long}/{number}.png", "name": long, "nearest": long} for number in (17, 18)]
    _print(rows, [])
    files = "".join(line.split("\u2502")[1].strip() for line in capsys.readouterr().out.splitlines()[3:-1])
    assert files == "".join(row["file"] for row in rows)
