"""Signals, failures and numbers that are not finite: every process ends, in time, with the right code."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tiny_runs import NO_FIGURES, QUIET, SMALL_NETWORK

from arcface_pl import ArcFaceModule, MNISTDataModule
from arcface_pl.checkpoints.reading import read_checkpoint
from arcface_pl.cli import main

pytestmark = pytest.mark.usefixtures("in_folder")

FAULTY = Path(__file__).with_name("faulty_fit.py")
QUICK = ["--data.dataset", "digits", "--max_epochs", "2", "--enable_progress_bar", "false", *NO_FIGURES, *SMALL_NETWORK]
RUN = Path("lightning_logs/version_0")


@pytest.fixture(autouse=True)
def hangup() -> Iterator[None]:
    """Have SIGHUP end processes, although the tests may have been started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last checkpoint of a run that nothing interrupted."""
    with chdir(tmp_path_factory.mktemp("whole")):
        main(["fit", *QUICK])
        return dict(read_checkpoint(RUN / "checkpoints/last.ckpt"))


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Any) -> None:
    """Have the network's forward pass do something in one training step."""
    forward = ArcFaceModule.forward

    def changed(self: ArcFaceModule, images: torch.Tensor) -> torch.Tensor:
        embeddings = forward(self, images)
        return act(embeddings) if self.training and self.global_step == step else embeddings

    monkeypatch.setattr(ArcFaceModule, "forward", changed)


def exit_code(*args: str) -> Any:
    with pytest.raises(SystemExit) as caught:
        main(["fit", *args])
    return caught.value.code


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("step", [4, 20])  # within an epoch of 21 steps, and in its last one
def test_a_signal_saves_and_the_run_goes_on_to_the_same_end(
    whole: dict[str, Any], in_folder: Path, monkeypatch: pytest.MonkeyPatch, signum: int, code: int, step: int
) -> None:
    handlers = [signal.getsignal(each) for each in (signum, signal.SIGINT)]

    def send(embeddings: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signum)
        return embeddings

    with monkeypatch.context() as patch:
        at_step(patch, step, send)
        assert exit_code(*QUICK) == code
    assert read_checkpoint(RUN / "checkpoints/last.ckpt")["global_step"] == step + 1
    assert not (RUN / "results.json").exists()
    main(["fit", "--ckpt_path", "last"])
    resumed = read_checkpoint(RUN / "checkpoints/last.ckpt")
    assert resumed["global_step"] == whole["global_step"] == 42
    assert all(torch.equal(weight, whole["state_dict"][name]) for name, weight in resumed["state_dict"].items())
    assert [signal.getsignal(each) for each in (signum, signal.SIGINT)] == handlers


@pytest.mark.parametrize("step", [0, 25])
@pytest.mark.parametrize("cause", ["loss", "gradient"])
def test_what_is_not_finite_ends_the_run_and_stays_out_of_its_files(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, cause: str, step: int
) -> None:
    def poison(embeddings: torch.Tensor) -> torch.Tensor:
        if cause == "loss":
            return embeddings * float("nan")
        embeddings.register_hook(lambda gradient: gradient * float("inf"))
        return embeddings

    at_step(monkeypatch, step, poison)
    assert exit_code(*QUICK) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"at step {step}: " in error
    assert ("the loss is nan" if cause == "loss" else "the gradients are not finite") in error
    saved = list(in_folder.glob("**/*.ckpt"))
    assert bool(saved) == (step > 20)
    for path in saved:
        assert all(weight.isfinite().all() for weight in read_checkpoint(path)["state_dict"].values())


def test_a_network_that_is_not_finite_is_not_saved(in_folder: Path, capsys: pytest.CaptureFixture) -> None:
    main(["fit", *QUICK, "--max_epochs", "1"])
    before = (RUN / "checkpoints/last.ckpt").read_bytes()
    trainer = _trainer_with(float("nan"))
    with pytest.raises(ValueError, match=r"state_dict.head.weight is not finite"):
        trainer.save_checkpoint(RUN / "checkpoints/last.ckpt")
    assert (RUN / "checkpoints/last.ckpt").read_bytes() == before


def _trainer_with(value: float) -> Any:
    module = ArcFaceModule.load_from_checkpoint(RUN / "checkpoints/last.ckpt")
    trainer = L.Trainer(**QUIET)
    trainer.test(module, MNISTDataModule(dataset="digits"), verbose=False)
    with torch.no_grad():
        module.head.weight[0, 0] = value
    return trainer


class TestDamage:
    @pytest.fixture
    def checkpoints(self) -> Path:
        main(["fit", *QUICK])
        content = bytearray((RUN / "checkpoints/last.ckpt").read_bytes())
        content[len(content) // 3] ^= 4
        (RUN / "checkpoints/last.ckpt").write_bytes(content)
        return RUN / "checkpoints"

    def test_the_newest_whole_one_is_named_and_taken_when_asked(
        self, checkpoints: Path, capsys: pytest.CaptureFixture
    ) -> None:
        assert exit_code("--ckpt_path", "last") == 2
        error = capsys.readouterr().err
        assert "last.ckpt: it is damaged (archive/data/" in error
        assert "previous.ckpt is whole: last-good takes it" in error  # best.ckpt is the same file as last.ckpt
        main(["fit", "--ckpt_path", "last-good", "--max_epochs", "3"])
        assert "lightning_logs/version_0/checkpoints/previous.ckpt" in capsys.readouterr().out
        assert read_checkpoint(checkpoints / "last.ckpt")["global_step"] == 63

    def test_without_a_whole_one_there_is_none(self, checkpoints: Path, capsys: pytest.CaptureFixture) -> None:
        for name in ("best.ckpt", "previous.ckpt"):
            (checkpoints / name).unlink()
        for asked in ("last", "last-good"):
            assert exit_code("--ckpt_path", asked) == 2
            assert "no other of its run is whole" in capsys.readouterr().err


def test_another_number_of_threads_is_refused_and_leaves_the_run_as_it_was(
    in_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    main(["fit", *QUICK, "--max_epochs", "1", "--model.num_threads", "1"])
    config = (RUN / "config.yaml").read_bytes()
    assert exit_code("--ckpt_path", "last", "--model.num_threads", "2", "--max_epochs", "2") == 2
    assert "num_threads: the checkpoint has 1, this run 2" in capsys.readouterr().err
    assert (RUN / "config.yaml").read_bytes() == config
    assert exit_code("--ckpt_path", "last", "--data.batch_size", "32") == 2
    assert "batch_size: the checkpoint has 64, this run 32" in capsys.readouterr().err
    main(["fit", "--ckpt_path", "last", "--data.batch_size", "32", "--max_epochs", "2", "--allow_inexact_resume"])
    # The leave was for that resume, not for later ones.
    assert exit_code("--ckpt_path", "last", "--data.batch_size", "16") == 2


@pytest.mark.parametrize("root", ["/proc/nothing", "file"])
def test_a_folder_that_takes_no_files_is_found_before_the_first_step(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, root: str
) -> None:
    (in_folder / "file").write_bytes(b"")
    at_step(monkeypatch, 0, lambda embeddings: pytest.fail("a step was taken"))
    assert exit_code(*QUICK, "--default_root_dir", root) == 2
    assert capsys.readouterr().err.count("\n") == 1


FAULTS = [
    ("term", 0, 143, "stopped by SIGTERM"),
    ("term", 1, 143, "stopped by SIGTERM"),
    ("int", 1, 130, "stopped by SIGINT"),
    ("hup", 0, 129, "stopped by SIGHUP"),
    ("hup", 1, 129, "stopped by SIGHUP"),
    ("usr2", 1, 140, "stopped by SIGUSR2"),
    ("raise", 0, 1, "a fault of the test"),
    ("raise", 1, 1, "process 1 of the run failed: KeyError: 'a fault of the test'"),
    ("nan", 1, 2, "process 1 of the run failed: the loss is nan at step 5"),
    ("kill", 0, -9, ""),
    ("kill", 1, None, ""),
]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("fault", "rank", "code", "message"), FAULTS, ids=[f"{row[0]}-{row[1]}" for row in FAULTS])
def test_one_process_of_two_takes_the_other_along(
    in_folder: Path, fault: str, rank: int, code: int | None, message: str
) -> None:
    together = ["--accelerator", "cpu", "--devices", "2", "--strategy", "ddp"]
    command = [sys.executable, str(FAULTY), fault, str(rank), "5", "fit", *QUICK, *together]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        _, errors = child.communicate(timeout=240)  # the pipe is closed when the last process has ended
    assert child.returncode == code if code is not None else child.returncode != 0, errors[-2000:]
    assert message in errors
    saved = [read_checkpoint(path)["global_step"] for path in in_folder.glob("**/last.ckpt")]
    if fault in ("term", "int", "hup", "usr2"):
        assert len(saved) == 1
        assert 6 <= saved[0] <= 8  # at the step after the one in which the processes agreed
    else:
        assert not saved
