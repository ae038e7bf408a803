"""``arcface-pl demo`` as it is started and stopped."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from arcface_pl.cli import main

SCRIPT = Path(__file__).parents[2] / "scripts" / "demo.py"


@contextmanager
def serving(*words: object) -> Iterator[tuple[subprocess.Popen, str]]:
    """The command as a process on a free port, and its address; killed if it does not end."""
    command = [sys.executable, str(SCRIPT), *map(str, words), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Its complaints go where pytest keeps them: a pipe that nobody reads would fill
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), process.communicate(timeout=60)
            yield process, line.split()[0]
        finally:
            process.kill()


def fails(capsys: pytest.CaptureFixture, *words: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["demo", *map(str, words)])
    out, error = capsys.readouterr()
    assert (ended.value.code, out, error.count("\n")) == (2, "", 1)
    return error


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_it_serves_and_ends_in_order(trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with serving(trained, "--gallery", tmp_path / "names", "--threshold", "0.25") as (process, address):
        with urllib.request.urlopen(f"{address}api/model", timeout=60) as response:
            about = json.load(response)
        assert (about["num_classes"], about["dataset"]) == (8, "digits")
        assert about["class_threshold_degrees"] == pytest.approx(75.5225, abs=1e-4)
        # More than is accepted is answered, not cut off
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}api/recognize", data=bytes(30 * 2**20), timeout=60)
        with refused.value as response:
            assert response.code == 413
            assert "expected at most" in json.load(response)["error"]
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out, capfd.readouterr().err) == (0, "", "")
    assert (tmp_path / "names" / "gallery.json").is_file()


def test_a_port_that_is_taken_is_one_line(trained: Path, capsys: pytest.CaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        error = fails(capsys, trained, "--port", port)
    assert f"--port: got {port}; expected a free port, or 0 for any. It cannot be used: Address already in use" in error


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.ckpt"], "There is no such file"),
        (["best"], "No run under lightning_logs"),
        (["best", "--port", "65536"], "--port: got '65536'; expected a port, 0 to 65535"),
        (["best", "--threshold", "2"], "--threshold: got '2'; expected a cosine in [-1, 1]"),
        ([], "MODEL"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in fails(capsys, *words, *([] if "--port" in words or not words else ["--port", "0"]))


def test_a_gallery_that_cannot_be_written_is_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in fails(capsys, trained, "--port", "0", "--gallery", tmp_path / "file")


def test_a_gallery_that_another_process_is_changing_is_one_line(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("arcface_pl.cli.demo.WAIT", 0.1)
    with FileLock(tmp_path / ".lock"):
        error = fails(capsys, trained, "--port", "0", "--gallery", tmp_path)
    assert "another process is changing it; try again when it has finished" in error


def test_a_missing_library_is_one_line_that_says_how_to_get_it(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "uvicorn is not installed; pip install 'arcface_pl[demo]'" in fails(capsys, trained)
