import json
import os
import pydoc
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import lightning as L
import pytest
import yaml
from tiny_runs import NO_FIGURES, SMALL_NETWORK

from arcface_pl.cli import TOOLS, main
from arcface_pl.cli.config import read_config
from arcface_pl.cli.layers import merge

CONFIGS = Path(__file__).parents[2] / "arcface_pl" / "configs"
FIT = Path(__file__).parents[2] / "scripts" / "fit.py"
QUICK = ["--data.dataset", "digits", "--max_epochs", "2", "--enable_progress_bar", "false"]
FIT_DIGITS = ["fit", *QUICK, *NO_FIGURES, *SMALL_NETWORK]


def results(folder: Path, run: str = "version_0") -> dict:
    return json.loads((folder / "lightning_logs" / run / "results.json").read_text())


def test_fit_leaves_what_it_promises(in_folder: Path, capsys: pytest.CaptureFixture) -> None:
    main(["fit", *QUICK, "--limit_train_batches", "8"])
    printed = capsys.readouterr().out
    run = in_folder / "lightning_logs" / "version_0"
    left = results(in_folder)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert left["dataset"] == "digits"
    assert left["num_parameters"] == 420_352 + 1_280
    assert left["seed"] == 0
    assert Path(left["checkpoint"]).name == "best.ckpt"
    assert left["fit_seconds"] > 0
    assert {"torch", "lightning", "python"} <= left["versions"].keys()
    for key in ("accuracy", "margin_accuracy", "loss"):
        assert {f"val/{key}", f"test/{key}"} <= left.keys()
    assert 0 <= left["test/margin_accuracy"] < left["test/accuracy"] <= 1
    assert "SimpleCNN -> 128 -> ArcFaceHead" in printed
    assert " --logdir lightning_logs" in printed
    assert f"{left['test/accuracy']:.2%}" in printed


def test_the_saved_config_runs_again_and_alike(in_folder: Path) -> None:
    main([*FIT_DIGITS, "--model.head.margin", "0.3", "--seed_everything", "5"])
    main(["fit", "--config", "lightning_logs/version_0/config.yaml"])
    first, second = results(in_folder), results(in_folder, "version_1")
    for changing in ("checkpoint", "fit_seconds"):
        assert first.pop(changing) != second.pop(changing)
    assert first == second


def test_test_repeats_the_runs_numbers_without_its_config(in_folder: Path) -> None:
    main([*FIT_DIGITS, "--model.head.margin", "0.2", "--data.normalize", "false"])
    run = in_folder / "lightning_logs" / "version_0"
    (run / "config.yaml").write_text("model: {head: {class_path: os.system}}\n")
    before = set(in_folder.iterdir())
    for command in ("test", "validate"):
        main([command, "--ckpt_path", "best", "--enable_progress_bar", "false"])
        split = "test" if command == "test" else "val"
        repeated = json.loads((run / f"{command}.json").read_text())
        assert repeated[f"{split}/accuracy"] == results(in_folder)[f"{split}/accuracy"]
        assert repeated[f"{split}/loss"] == pytest.approx(results(in_folder)[f"{split}/loss"], rel=1e-6)
    assert set(in_folder.iterdir()) == before


def test_predict_writes_a_row_an_image(in_folder: Path) -> None:
    main([*FIT_DIGITS])
    main(["predict", "--ckpt_path", "last", "--enable_progress_bar", "false"])
    header, *rows = (in_folder / "lightning_logs/version_0/predictions.csv").read_text().splitlines()
    assert header == "index,label,prediction,cosine,angle_degrees"
    right = sum(row.split(",")[1] == row.split(",")[2] for row in rows)
    main(["test", "--ckpt_path", "last", "--enable_progress_bar", "false"])
    tested = json.loads((in_folder / "lightning_logs/version_0/test.json").read_text())
    assert tested["test/accuracy"] == pytest.approx(right / len(rows))


def test_last_goes_on_in_its_own_folder(in_folder: Path) -> None:
    main([*FIT_DIGITS, "--max_epochs", "1", "--model.head.margin", "0.25"])
    main(["fit", "--ckpt_path", "last", "--max_epochs", "2"])
    assert [path.name for path in (in_folder / "lightning_logs").iterdir()] == ["version_0"]
    config = yaml.safe_load((in_folder / "lightning_logs/version_0/config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2
    assert config["model"]["head"]["init_args"]["margin"] == 0.25


WRONG = [
    (["--accelerator", "gpu"], "trainer.accelerator: got 'gpu'"),
    (["--max_epoch", "3"], "--max_epoch: unknown; did you mean --max_epochs?"),
    (["--model.head", "ArcFaceHed"], "model.head: got ArcFaceHed; expected AdaFaceHead, ArcFaceHead"),
    (["--model.head.margin", "-0.5"], "model.head.margin: got -0.5; expected a number in [0, 3.14159)"),
    (["--model.head.margins", "0.5"], "model.head.margins: unknown; did you mean model.head.margin?"),
    (["--model.head.num_classes", "7"], "model.head.num_classes: got 7; expected 10"),
    (["--model.backbone.in_channels", "3"], "model.backbone.in_channels: got 3; expected 1"),
    (["--model.heads.margin", "1"], "model.heads: unknown; did you mean model.head?"),
    (["--max_epochs", "three"], "trainer.max_epochs: got three; expected int, null"),
    (["--max_epochs", "1_0"], "got '1_0'; expected a number without underscores"),
    (["--precision", "bf17"], "trainer.precision: got bf17"),
    (["--devices", "0"], "trainer.devices: got 0; expected 1 to 4096"),
    (["--strategy", "dpp"], "trainer.strategy: You selected an invalid strategy name"),
    (["--data.dataset", "mnits"], "data.dataset: got mnits; expected auto, mnist"),
    (["--data.val_fraction", "1.5"], "data.val_fraction: got 1.5"),
    (["--data.batch_size", "0"], "data.batch_size: got 0"),
    (["--model.optimizer.lr", "-1"], "model.optimizer.lr: Invalid learning rate: -1"),
    (["--model.optimizer.lrr", "1"], "model.optimizer.lrr: unknown; did you mean model.optimizer.lr?"),
    (["--model.lr_schedule.warmup_fraction", "2"], "model.lr_schedule.warmup_fraction: got 2"),
    (["--seed_everything", "x"], "seed_everything: got x; expected"),
    (["--config", "nosuch.yaml"], "--config: got 'nosuch.yaml'; expected a file, or one of accurate, "),
    (["--ckpt_path", "last"], "No run under lightning_logs has a checkpoints/last.ckpt"),
    (["--ckpt_path", "nosuch.ckpt"], "--ckpt_path: got 'nosuch.ckpt'; expected a checkpoint's path"),
]


@pytest.mark.parametrize(("args", "message"), WRONG, ids=[" ".join(args) for args, _ in WRONG])
def test_a_mistake_ends_in_one_line(
    in_folder: Path, capsys: pytest.CaptureFixture, args: list[str], message: str
) -> None:
    if args[1] == "gpu":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available() or torch.backends.mps.is_available():
            pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as caught:
        main(["fit", *args])
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("arcface-pl fit: error: ")
    assert message in captured.err
    assert list(in_folder.iterdir()) == []  # before any work


def test_a_callback_without_settings_is_accepted(in_folder: Path, capsys: pytest.CaptureFixture) -> None:
    main(["fit", "--trainer.callbacks", "[{class_path: Callback}]", "--print_config"])
    *_, added = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    assert pydoc.locate(added.pop("class_path")) is L.Callback  # Lightning exports it under several paths
    assert added == {}


def test_the_traceback_is_there_on_request(in_folder: Path) -> None:
    with pytest.raises(ValueError, match="data.batch_size: got 0"):
        main(["fit", "--data.batch_size", "0", "--traceback"])


def test_evaluation_needs_a_checkpoint_and_an_unknown_command_is_named(capsys: pytest.CaptureFixture) -> None:
    for args, message in ((["test"], "--ckpt_path: test needs one"), (["fitt"], "'fitt': no such command")):
        with pytest.raises(SystemExit) as caught:
            main(args)
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["fit"], ["predict"], ["test"], ["validate"]])
def test_help_fits_the_terminal_with_the_longer_name(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python").touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "arcface_pl", *words])
    monkeypatch.setattr(sys, "argv", ["/anywhere/arcface_pl/__main__.py", *words])
    with suppress(SystemExit):
        main([*words, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_help_is_short_and_does_not_wait_for_torch() -> None:
    code = "import sys; from arcface_pl.cli import main; main(['fit', '--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "--max_epochs" in done.stdout
    assert len(done.stdout.splitlines()) < 50
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("command", TOOLS)
@pytest.mark.parametrize("width", [80, 120])
def test_help_of_a_tool_fits_the_terminal(
    command: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) < width
    assert "examples:" in lines or "example:" in lines  # a list is not filled into one paragraph


def test_print_config_and_help_all(in_folder: Path, capsys: pytest.CaptureFixture) -> None:
    main(["fit", "--print_config", "--model.head.margin", "0.4"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert set(printed) == {"seed_everything", "trainer", "model", "data"}
    assert printed["model"]["head"]["init_args"]["margin"] == 0.4
    assert printed["model"]["head"]["init_args"]["num_classes"] == 10
    main(["fit", "--help_all"])
    told = capsys.readouterr().out
    assert "--trainer.accumulate_grad_batches" in told
    assert told.splitlines()[0].endswith(" fit [flags]")


def test_overlays_hold_differences_only() -> None:
    base = read_config(Path(main.__code__.co_filename).parent.parent / "configs" / "base.yaml")
    for path in set(CONFIGS.glob("*.yaml")) - {CONFIGS / "base.yaml"}:
        overlay = read_config(path)
        assert merge(base, overlay) != base, f"{path.name} changes nothing"
        assert len(merge(base, overlay)["trainer"]["callbacks"]) >= len(base["trainer"]["callbacks"])


ALREADY_RUN_ELSEWHERE = {"gpu"}  # needs a device
OF_FILES = {"folder", "face", "omniglot"}  # need images, with which tests in tests/data/ run them


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted({path.stem for path in CONFIGS.glob("*.yaml")} - OF_FILES))
def test_every_overlay_runs(name: str, tmp_path: Path) -> None:
    args = ["--config", str(CONFIGS / f"{name}.yaml"), "--data.dataset", "digits", "--max_epochs", "1"]
    if name in ALREADY_RUN_ELSEWHERE:
        args += ["--accelerator", "cpu"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(FIT), *args], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert name == "debug" or "accuracy" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_train_together_and_count_every_image_once(tmp_path: Path, processes: int) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}

    def call(*args: str) -> None:
        done = subprocess.run(
            [sys.executable, str(tmp_path / "run.py"), *args],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "deprecated" not in done.stderr

    (tmp_path / "run.py").write_text("import sys\nfrom arcface_pl.cli import main\nmain(sys.argv[1:])\n")
    together = ["--accelerator", "cpu", "--devices", str(processes), "--strategy", "ddp"]
    call("fit", *QUICK, *together, "--data.batch_size", "16")
    trained = results(tmp_path)
    assert trained["test/accuracy"] > 0.5
    scores = []
    for extra in ([], together):
        call("test", "--ckpt_path", "best", *extra)
        scores.append(json.loads((tmp_path / "lightning_logs/version_0/test.json").read_text()))
    assert scores[0]["test/accuracy"] == scores[1]["test/accuracy"] == trained["test/accuracy"]
    assert scores[0]["test/margin_accuracy"] == scores[1]["test/margin_accuracy"]
    assert scores[0]["test/loss"] == pytest.approx(scores[1]["test/loss"], rel=1e-6)
