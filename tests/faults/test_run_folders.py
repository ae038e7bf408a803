"""Runs never share a folder, and files of others are neither replaced nor read."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, Logger
from tiny_runs import QUIET

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule
from arcface_pl.callbacks import RunCheckpoint, RunLogger
from arcface_pl.callbacks.run.run_folder import run_folder
from arcface_pl.checkpoints.atomic import claim_folder, unused_path
from arcface_pl.checkpoints.reading import read_checkpoint
from arcface_pl.cli import main
from arcface_pl.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("in_folder")

FIT = [
    "fit", "--data.dataset", "digits", "--max_epochs", "1", "--limit_train_batches", "2", "--limit_val_batches", "1",
    "--limit_test_batches", "1", "--enable_progress_bar", "false", "--model.backbone", "FastCNN",
    "--model.backbone.width", "4",
    "--trainer.callbacks", "null", "--trainer.callbacks+=RunCheckpoint",
]  # fmt: skip
LOGS = Path("lightning_logs")


class Elsewhere(Logger):
    """A logger that, as WandbLogger, has the present folder as save_dir and a version that is no folder's."""

    name = "project"
    version = "3kdj2l"
    save_dir = "."

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nowhere."""

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Nowhere."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """``finished(*words)``: have here what ``main(words)`` leaves in an empty folder; the same words train once."""
    made: dict[tuple[str, ...], Path] = {}

    def put(*words: str) -> None:
        if words not in made:
            made[words] = tmp_path_factory.mktemp("finished")
            with chdir(made[words]):
                main(list(words))
        shutil.copytree(made[words], Path.cwd(), dirs_exist_ok=True)

    return put


OURS = {"config.yaml", "results.json", "checkpoints", "metrics.csv", "curves.png"}
LOGGERS = ["false", "CSVLogger", "TensorBoardLogger", f"{__name__}.Elsewhere", "[CSVLogger, RunLogger]", "RunLogger"]


@pytest.mark.parametrize("logger", LOGGERS)
def test_a_second_run_leaves_the_first_as_it_was(logger: str, finished: Callable[..., None]) -> None:
    finished(*FIT, "--logger", logger)
    before = contents(LOGS / "version_0")
    assert {path.name for path in (LOGS / "version_0").iterdir()} >= OURS
    assert not list(Path().glob("*.*")), "beside the run"
    main([*FIT, "--logger", logger, "--seed_everything", "1"])
    assert contents(LOGS / "version_0") == before
    assert sorted(path.name for path in LOGS.iterdir()) == ["version_0", "version_1"]
    assert json.loads((LOGS / "version_1/results.json").read_text())["seed"] == 1


@pytest.mark.parametrize("logger", ["CSVLogger", "false", "RunLogger"])
def test_a_resumed_run_continues_in_its_folder(logger: str, finished: Callable[..., None]) -> None:
    finished(*FIT, "--logger", logger)
    main([*FIT, "--logger", logger])  # the newest, whose folder is the second
    rows = contents(LOGS / "version_1")[str(LOGS / "version_1/metrics.csv")]
    theirs = {name: each for name, each in contents(LOGS / "version_1").items() if "/csv" in name}
    main(["fit", "--ckpt_path", "last", "--max_epochs", "2"])
    assert read_checkpoint(LOGS / "version_1/checkpoints/last.ckpt")["epoch"] == 1
    assert yaml.safe_load((LOGS / "version_1/config.yaml").read_text())["trainer"]["max_epochs"] == 2
    now = contents(LOGS / "version_1")
    assert len(now[str(LOGS / "version_1/metrics.csv")]) > len(rows)
    assert theirs.items() <= now.items()  # a CSVLogger would delete them
    assert sorted(path.name for path in LOGS.iterdir()) == ["version_0", "version_1"]


def test_trainers_in_python_do_not_share_a_folder(tmp_path: Path) -> None:
    folders: list[Path] = []
    for logger in (False, False, RunLogger(), CSVLogger("."), False):
        own = {"enable_checkpointing": True, "logger": logger, "callbacks": [RunCheckpoint()]}
        trainer = L.Trainer(**{**QUIET, **own}, max_epochs=1, limit_train_batches=1, limit_val_batches=1)
        trainer.fit(
            ArcFaceModule(FastCNN(8, width=4), ArcFaceHead(8, 10)), datamodule=MNISTDataModule(dataset="digits")
        )
        folders.append(trainer.checkpoint_callback.path.parent.parent)  # type: ignore[union-attr]
    assert len(set(folders)) == len(folders)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("logger", ["RunLogger", "CSVLogger", "false"])
def test_four_jobs_started_together_have_four_folders(logger: str) -> None:
    code = "import sys; from arcface_pl.cli import main; main(sys.argv[1:])"
    commands = [
        [sys.executable, "-c", code, *FIT, "--logger", logger, "--seed_everything", str(seed)] for seed in range(4)
    ]
    jobs = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for command in commands]
    errors = [job.communicate(timeout=280)[1][-2000:] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 4, errors
    results = [json.loads((LOGS / f"version_{number}/results.json").read_text()) for number in range(4)]
    assert sorted(each["seed"] for each in results) == [0, 1, 2, 3]
    for number, each in enumerate(results):
        assert Path(each["checkpoint"]).parent.parent.name == f"version_{number}"
        config = yaml.safe_load((LOGS / f"version_{number}/config.yaml").read_text())
        assert config["seed_everything"] == each["seed"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_share_one_folder() -> None:
    code = "import sys; from arcface_pl.cli import main; main(sys.argv[1:])"
    for number in range(2):
        Path("job.py").write_text(code)
        command = [sys.executable, "job.py", *FIT, "--logger", "false", "--devices", "2", "--strategy", "ddp"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=140)
        assert done.returncode == 0, done.stderr[-2000:]
        assert sorted(path.name for path in LOGS.iterdir()) == [f"version_{each}" for each in range(number + 1)]
        assert {path.name for path in (LOGS / f"version_{number}").iterdir()} >= OURS


def test_claims_at_the_same_time_get_different_folders(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from arcface_pl.checkpoints.atomic import claim_folder\n"
        "sys.stdin.readline()\nfor _ in range(10): print(claim_folder(Path('runs')).name)"
    )
    jobs = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for job in jobs:
        assert job.stdin is not None
        job.stdin.write("\n")
        job.stdin.flush()
    names = [name for job in jobs for name in job.communicate(timeout=100)[0].split()]
    assert len(names) == 40
    assert len(set(names)) == 40
    (tmp_path / "runs/version_900-digits").mkdir()
    assert claim_folder(tmp_path / "runs", "-x").name == "version_901-x"


def test_a_claim_does_not_rely_on_a_list_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        (tmp_path / f"version_{number}").mkdir()
    monkeypatch.setattr(Path, "iterdir", lambda path: iter([tmp_path / "version_0"]))  # as another host sees it
    assert claim_folder(tmp_path).name == "version_3"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_only_the_first_of_two_hosts_writes(tmp_path: Path) -> None:
    flags = ["--num_nodes", "2", "--devices", "1", "--strategy", "ddp", "--accelerator", "cpu", "--logger", "false"]
    long = ["--max_epochs", "-1", "--max_time", "00:00:00:02", "--model.lr_schedule", "Cosine"]
    code = (
        "import socket, sys; socket.gethostname = lambda: f'host{sys.argv[1]}'; from arcface_pl.cli import main\n"
        "main(sys.argv[2:])"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    jobs = []
    for host in ("0", "1"):
        (tmp_path / host).mkdir()
        launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": host, "LOCAL_RANK": "0"}
        command = [sys.executable, "-c", code, host, *FIT, *flags, *long]
        jobs.append(subprocess.Popen(command, cwd=tmp_path / host, env={**os.environ, **launched},
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))  # fmt: skip
    errors = [job.communicate(timeout=280)[1][-2000:] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], errors
    assert {path.name for path in (tmp_path / "0" / LOGS / "version_0").iterdir()} >= OURS
    assert not list((tmp_path / "1").iterdir())


def test_a_refused_run_leaves_no_folder(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main([*FIT, "--default_root_dir", "new", "--max_epochs", "-1", "--model.lr_schedule", "Cosine"])
    assert not Path("new").exists()


@pytest.mark.parametrize("root", ["s3://bucket/runs", "gs://x", "file:///tmp/x"])
def test_a_url_is_no_folder(root: str, capsys: pytest.CaptureFixture) -> None:
    """It would become a local folder named s3: and so on."""
    with pytest.raises(SystemExit):
        main(["fit", "--data.dataset", "digits", "--accelerator", "cpu", "--default_root_dir", root])
    assert f"trainer.default_root_dir: got '{root}'; expected a folder, not a URL" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="a URL, not a folder"):
        run_folder(L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=root))
    assert not [each for each in Path().iterdir() if ":" in each.name]


THEIRS = b"# a config of another program\nmodel: {head: {class_path: os.system}}\n"


@pytest.mark.parametrize("place", ["mine.ckpt", "checkpoints/last.ckpt", "project/checkpoints/epoch=3.ckpt"])
def test_a_copied_checkpoint_is_resumed_in_a_new_folder(place: str, finished: Callable[..., None]) -> None:
    finished(*FIT, "--model.head.margin", "0.3", "--default_root_dir", "first", "--model.optimizer.lr", "0.001")
    copy = Path(place)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy("first/lightning_logs/version_0/checkpoints/last.ckpt", copy)
    names = ("config.yaml", "results.json", "predictions.csv", "test.json", "validate.json")
    theirs = [folder / name for folder in {copy.parent, copy.parent.parent} for name in names]
    for path in theirs:
        path.write_bytes(THEIRS)
    quick = FIT[3:]  # the limits are not in a checkpoint
    main(["fit", "--ckpt_path", str(copy), *quick, "--max_epochs", "2"])
    last = read_checkpoint(LOGS / "version_0/checkpoints/last.ckpt")
    assert last["epoch"] == 1
    assert last["hyper_parameters"]["head"]["kwargs"]["margin"] == 0.3
    config = yaml.safe_load((LOGS / "version_0/config.yaml").read_text())
    assert config["model"]["head"]["init_args"]["margin"] == 0.3
    assert config["model"]["optimizer"]["init_args"]["lr"] == 0.001
    assert config["data"]["init_args"]["dataset"] == "digits"
    for command in ("validate", "test", "predict"):
        main([command, "--ckpt_path", str(copy), "--enable_progress_bar", "false"])
    assert all(path.read_bytes() == THEIRS for path in theirs)
    assert (copy.parent / "predictions-1.csv").is_file()


def test_a_checkpoint_in_another_runs_folder_does_not_replace_that_runs(finished: Callable[..., None]) -> None:
    finished(*FIT)
    main([*FIT, "--seed_everything", "1"])
    shutil.copy(LOGS / "version_0/checkpoints/last.ckpt", LOGS / "version_1/checkpoints/other.ckpt")
    before = contents(LOGS / "version_1")
    main(["fit", "--ckpt_path", str(LOGS / "version_1/checkpoints/other.ckpt"), *FIT[3:], "--max_epochs", "2"])
    assert contents(LOGS / "version_1") == before
    assert (LOGS / "version_2/results.json").is_file()


def test_a_replaced_config_is_not_read_nor_replaced(finished: Callable[..., None]) -> None:
    finished(*FIT)
    config = LOGS / "version_0/config.yaml"
    config.write_bytes(THEIRS)
    before = contents(LOGS / "version_0")
    main(["fit", "--ckpt_path", "last", *FIT[3:], "--max_epochs", "2"])
    assert contents(LOGS / "version_0") == before
    assert (LOGS / "version_1/results.json").is_file()


def test_a_moved_run_is_resumed_where_it_is(finished: Callable[..., None]) -> None:
    finished(*FIT)
    LOGS.rename("kept")
    Path("kept/version_0").rename("kept/good")
    main(["fit", "--ckpt_path", "kept/good/checkpoints/last.ckpt", "--max_epochs", "2"])
    assert not LOGS.exists()
    assert read_checkpoint("kept/good/checkpoints/last.ckpt")["epoch"] == 1


def test_unused_path(tmp_path: Path) -> None:
    assert unused_path(tmp_path / "a.csv").name == "a.csv"
    (tmp_path / "a.csv").touch()
    (tmp_path / "a-1.csv").symlink_to("nowhere")
    assert unused_path(tmp_path / "a.csv").name == "a-2.csv"
