"""A command reads and checks the checkpoint it is given once."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_runs import NO_FIGURES

from arcface_pl.checkpoints import reading
from arcface_pl.cli import main

RUN = Path("lightning_logs/version_0/checkpoints")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reads")
    flags = "--data.dataset digits --max_epochs 1 --accelerator cpu --enable_progress_bar false"
    main(["fit", *flags.split(), *NO_FIGURES, "--default_root_dir", str(folder)])
    for name in "ab":
        (folder / "people" / name).mkdir(parents=True)
        for width, number in ((3, "one"), (9, "two")):
            digit = Image.new("L", (28, 28))
            digit.paste(255, (12, 4, 12 + width, 24))
            digit.save(folder / "people" / name / f"{number}.png")
    return folder


COMMANDS = {
    "predict": ["predict", "best", "people/a/one.png"],
    "test": ["test", "--ckpt_path", "best", "--accelerator", "cpu", "--enable_progress_bar", "false"],
    "predict of the test set": ["predict", "--ckpt_path", "best", "--enable_progress_bar", "false"],
    "evaluate": ["evaluate", "best", "--figures", "figures"],
    "enroll": ["recognize", "enroll", "best", "people"],
    "calibrate": ["recognize", "calibrate", "best", "people", "--far", "0.5"],
    "export": ["export", "best", "--format", "safetensors"],
    "fit": ["fit", "--ckpt_path", "last", "--max_epochs", "2", "--enable_progress_bar", "false"],
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_read_once(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    shutil.copytree(workplace, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    if command == "fit":
        (RUN / "best.ckpt").unlink()  # else the closing test reads it too
    reads: Counter[str] = Counter()
    check, load = reading._check_archive, torch.load

    def count_checks(path: Path) -> None:
        reads[f"check {path.name}"] += 1
        check(path)

    def count_loads(path: Path, *args: object, **kwargs: object) -> object:
        reads[f"load {Path(path).name}"] += 1
        return load(path, *args, **kwargs)

    monkeypatch.setattr(reading, "_check_archive", count_checks)
    monkeypatch.setattr(torch, "load", count_loads)
    if command in ("test", "fit", "predict of the test set"):
        main(COMMANDS[command])
    else:
        with pytest.raises(SystemExit) as ended:
            main(COMMANDS[command])
        assert not ended.value.code
    name = "last.ckpt" if command == "fit" else "best.ckpt"
    assert (reads[f"check {name}"], reads[f"load {name}"]) == (1, 1)
