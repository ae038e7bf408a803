"""Every command takes every form of a trained model, and all forms give the same answers."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from arcface_pl import MNISTDataModule, Recognizer
from arcface_pl.cli import main
from arcface_pl.cli.inputs import open_model

FORMS = {"path": "lightning_logs/version_0/checkpoints/best.ckpt", "alias": "best", "folder": "pretrained"}
FORMS |= {"exported": "model.safetensors"}
DIGITS = ["--data.dataset", "digits"]
TEST = ["--accelerator", "cpu", "--enable_progress_bar", "false", *DIGITS]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained model in all forms, and pictures."""
    folder = tmp_path_factory.mktemp("forms")
    flags = ["--max_epochs", "1", "--model.backbone", "FastCNN", "--logger", "false", "--limit_train_batches", "4"]
    main(["fit", *TEST, *flags, "--default_root_dir", str(folder)])
    recognizer = Recognizer.from_checkpoint(folder / FORMS["path"])
    recognizer.save_pretrained(folder / "pretrained")
    data = MNISTDataModule(dataset="digits")
    data.prepare_data()
    data.setup("fit")
    for number in range(4):
        path = folder / f"people/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.val_images[number, 0].numpy()).save(path)
    return folder


@pytest.fixture(autouse=True)
def exported(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    if not Path("model.safetensors").exists():
        run("export", "best", "--format", "safetensors", "--output", "model.safetensors", "--images", "people")


def run(*words: str, code: int = 0) -> None:
    if words[0] in ("validate", "test") or words[:2] == ("predict", "--ckpt_path"):
        main([*words])
        return
    with pytest.raises(SystemExit) as ended:
        main([*words])
    assert (ended.value.code or 0) == code


def evaluate(form: str) -> Any:
    run("evaluate", form, *DIGITS, "--json", f"{Path(form).name}.json")
    found = json.loads(Path(f"{Path(form).name}.json").read_text())
    return found | {"checkpoint": None}


def embed(form: str, *what: str) -> Any:
    output = f"{Path(form).name}{len(what)}.npz"
    run("embed", form, *what, "--output", output)
    with np.load(output, allow_pickle=False) as found:
        return {name: found[name].tolist() for name in found.files}


def trainer(command: str, form: str, capsys: pytest.CaptureFixture) -> Any:
    run(command, "--ckpt_path", form, *TEST)
    printed = capsys.readouterr().out
    if command != "predict":  # the table, without what tells the forms apart
        return [line for line in printed.splitlines() if any(key in line for key in ("accuracy", "loss", "angle"))]
    path = next(Path(word) for word in printed.split() if word.endswith(".csv"))
    with path.open() as file:
        return list(csv.DictReader(file))


def recognize(form: str, capsys: pytest.CaptureFixture) -> Any:
    gallery = ["--gallery", f"gallery_{Path(form).name}", "--json"]
    run("recognize", "enroll", form, "people", *gallery)
    capsys.readouterr()
    run("recognize", "identify", form, "people/a/0.png", *gallery)
    run("recognize", "verify", form, "people/a/0.png", "people/b/1.png", "--json")
    return capsys.readouterr().out


def inspect(form: str) -> Any:
    output = Path(f"inspected {Path(form).name}")
    run("inspect", form, *DIGITS, "--split", "test", "--images", "0", "--output", str(output))
    return (output / "labels.csv").read_text()


COMMANDS = {
    "inspect": lambda form, capsys: inspect(form),
    "evaluate": lambda form, capsys: evaluate(form),
    "embed --data": lambda form, capsys: embed(form, *DIGITS),
    "embed IMAGE": lambda form, capsys: embed(form, "people"),
    "predict IMAGE": lambda form, capsys: (run("predict", form, "people", "--json"), capsys.readouterr().out)[1],
    "recognize": recognize,
    "predict": lambda form, capsys: trainer("predict", form, capsys),
    "validate": lambda form, capsys: trainer("validate", form, capsys),
    "test": lambda form, capsys: trainer("test", form, capsys),
}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", COMMANDS)
def test_all_forms_give_one_answer(command: str, capsys: pytest.CaptureFixture) -> None:
    answers = {}
    for name, form in FORMS.items():
        capsys.readouterr()
        answers[name] = COMMANDS[command](form, capsys)
    assert answers["path"]
    for name, answer in answers.items():
        assert answer == answers["path"], name


@pytest.mark.slow
def test_what_a_form_cannot_do_is_one_line(place: Path, capsys: pytest.CaptureFixture) -> None:
    Path("model.pt2").touch()
    Path("model.onnx").touch()
    for words, said in (
        (["evaluate", "pretrained"], "--data: got None; expected a data module and its settings: pretrained does not"),
        (["embed", "pretrained", "--output", "x.npz"], "--data: got None; expected a data module"),
        (["test", "--ckpt_path", "pretrained"], "--data: got None; expected a data module"),
        (["fit", "--ckpt_path", "pretrained"], "--model.init_from pretrained starts a new run from the weights"),
        (["test", "--ckpt_path", "model.onnx", *TEST], "--ckpt_path: got 'model.onnx'; expected a model that test can"),
        (["inspect", "pretrained"], "--data: got None; expected a data module and its settings: pretrained does not"),
        (["inspect", "pretrained", *DIGITS, "--folds", "2"], "--folds: got '2 with pretrained'; expected a checkpoint"),
        (["evaluate", "model.pt2", *DIGITS], "MODEL: got 'model.pt2'; expected a checkpoint's path"),
        (["recognize", "calibrate", "model.safetensors", "people"], "MODEL: got 'model.safetensors'; expected a check"),
        (["evaluate", "people", *DIGITS], "people/config.json: there is no such file; give a folder that"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(words)
        told = capsys.readouterr().err
        assert ended.value.code == 2, words
        assert said in told
        assert told.count("\n") == 1, told


@pytest.mark.slow
def test_the_servers_open_every_form(place: Path) -> None:
    fingerprints = {open_model(form).fingerprint for form in FORMS.values()}
    assert len(fingerprints) == 1
    for form in FORMS.values():
        model = open_model(form)
        assert model.class_names == list("0123456789")
        assert model.calibration == open_model(FORMS["path"]).calibration
        assert torch.equal(model.head.weight, open_model(FORMS["path"]).head.weight)
