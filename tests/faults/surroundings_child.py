"""Run by test_surroundings.py: commands in forks of one process, each in odd surroundings; prints what came out."""

import json
import os
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import arcface_pl.cli.embed
import arcface_pl.cli.evaluation_report
import arcface_pl.cli.export
import arcface_pl.cli.run  # noqa: F401  # imported once for all forks
from arcface_pl.cli import main

COMMANDS = {
    "predict": "predict m.ckpt p.png --threshold 0",
    "embed": "embed m.ckpt people --output OUT/e.npz",
    "tsne": "embed m.ckpt people --output OUT/e.npz --tsne OUT/e.png",
    "evaluate": "evaluate m.ckpt --json OUT/e.json",
    "figures": "evaluate m.ckpt --json OUT/e.json --figures OUT/new/figures",
    "export": "export m.ckpt --format safetensors --output OUT/new/x.safetensors --images people",
    "enroll": "recognize enroll m.ckpt people --gallery OUT/g",
    "calibrate": "recognize calibrate OUT/m.ckpt people --threshold 0",
    "test": "test --ckpt_path OUT/m.ckpt --enable_progress_bar false",
    "predictions": "predict --ckpt_path OUT/m.ckpt --enable_progress_bar false",
}


def surround(kind: str) -> None:
    """Change what surrounds this process."""
    sys.dont_write_bytecode = True  # Python itself would leave it incomplete
    if kind == "file size":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    elif kind == "no input":
        os.close(0)
        sys.stdin = None
    elif kind == "folder gone":
        os.mkdir("gone")
        os.chdir("gone")
        os.rmdir("../gone")
    elif kind == "no home, no folder for temporary files":
        os.environ.pop("HOME", None)
        os.environ["TMPDIR"], tempfile.tempdir = "/nonexistent", None
    elif kind == "read-only folders for temporary files":  # as in a container
        os.environ["TMPDIR"], tempfile.tempdir = "/proc", None
        tempfile._candidate_tempdir_list = lambda: ["/proc"]  # type: ignore[attr-defined]
    elif kind == "warnings are errors":
        sys.warnoptions.append("error")
        warnings.resetwarnings()
        warnings.simplefilter("error")


def run(kind: str, args: list[str]) -> dict[str, Any]:
    """Run one command in a fork."""
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        code: Any = 1
        os.dup2(os.open("/dev/full" if kind == "full" else os.devnull, os.O_WRONLY), 1)
        os.dup2(told, 2)
        try:
            surround(kind)
            main(args)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(told)
    with os.fdopen(heard) as errors:
        return {"code": code, "error": errors.read()}


if __name__ == "__main__":
    folder, kind = Path.cwd(), sys.argv[1]
    sys.argv = ["arcface-pl"]
    for name, line in COMMANDS.items():
        out = folder / f"out-{name}"
        out.mkdir()
        (out / "m.ckpt").write_bytes((folder / "m.ckpt").read_bytes())
        words = line.replace("OUT", str(out)).replace(" m.ckpt", f" {folder}/m.ckpt")
        words = words.replace(" people", f" {folder}/people").replace(" p.png", f" {folder}/p.png")
        found = run(kind, words.split())
        found["left"] = sorted(str(each.relative_to(out)) for each in out.rglob("*"))
        found["same"] = (out / "m.ckpt").read_bytes() == (folder / "m.ckpt").read_bytes()
        print(json.dumps({"name": name, **found}), flush=True)  # or the next fork would print it, too
