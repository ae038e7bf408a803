"""Memory of each process of a sharded head at build, step, validation, save and load, in sizes of its shard.

python scripts/benchmarks/sharded.py --processes 2 3
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, deferred_centers

PHASES = ("build", "first step", "step", "validation", "save", "load")


def memory(name: str) -> int:
    """Bytes of a line of /proc/self/status: VmRSS now, VmHWM at most since `restart`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


class Peaks(L.Callback):
    """Measures the peak of resident memory, mapped files included, over the memory before each phase."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self.before, self.resumes = 0, False
        self.restart()

    def restart(self) -> None:
        """Begin a phase."""
        Path("/proc/self/clear_refs").write_text("5")
        self.before = memory("VmRSS")

    def end(self, phase: str) -> None:
        """End a phase and begin the next."""
        self.peaks[phase] = memory("VmHWM") - self.before
        self.restart()

    def on_train_start(self, *args: Any) -> None:
        """End the loading of a checkpoint."""
        if self.resumes:
            self.end("load")

    def on_train_batch_start(self, *args: Any) -> None:
        """Begin a step."""
        self.restart()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """End it."""
        self.end("first step" if trainer.global_step == 1 else "step")

    def on_validation_start(self, *args: Any) -> None:
        """Begin a validation."""
        self.restart()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End it, and save."""
        self.end("validation")
        if not self.resumes:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "run.ckpt")
            self.end("save")


class Measured(ArcFaceModule):
    """Ends the building: Lightning calls this between the setup and the loading of a checkpoint."""

    def configure_model(self) -> None:
        """End it."""
        peaks = next(each for each in self.trainer.callbacks if isinstance(each, Peaks))  # type: ignore[attr-defined]
        peaks.end("build")


def work(classes: int, dim: int, folder: Path, resumes: bool) -> None:
    """Train three steps, validate and save, or resume, in one process of several."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    world, rank = int(os.environ["WORLD_SIZE"]), os.environ["RANK"]
    data = TensorDataset(torch.randn(192, 1, 28, 28), torch.randint(classes, (192,)))
    loader: Any = DataLoader(data, batch_size=64)
    peaks = Peaks()
    with deferred_centers():
        head = ArcFaceHead(dim, classes, scale=64.0)
    settings: dict[str, Any] = {"shard_head": True, "update_head_in_backward": True}
    module = Measured(FastCNN(dim, width=4), head, lambda params: torch.optim.AdamW(params, 1e-3), **settings)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp",
        max_epochs=1 + resumes,
        callbacks=[peaks],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    peaks.resumes = resumes
    path = folder / "run.ckpt"
    trainer.fit(module, loader, loader, ckpt_path=path if resumes else None, weights_only=True)
    (folder / f"{rank}-{resumes}.json").write_text(json.dumps(peaks.peaks))


def measure(processes: int, classes: int, dim: int) -> str:
    """Return a row of the table: the largest peak of the processes in each phase."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    with tempfile.TemporaryDirectory() as folder:
        for resumes in ("", "--resumes"):
            command = [*launcher, __file__, "--work", folder, "--classes", str(classes), "--dim", str(dim)]
            subprocess.run([*command, *filter(None, [resumes])], check=True, stdout=subprocess.DEVNULL)
        found = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    shard = 4 * dim * -(-classes // processes)
    cells = [max(each.get(phase, 0) for each in found) / shard for phase in PHASES]
    return " | ".join([f"| {processes} | {shard / 2**20:.0f} MiB", *(f"{cell:.2f}" for cell in cells)]) + " |"


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--classes", type=int, default=600_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--resumes", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        work(given.classes, given.dim, given.work, given.resumes)
        return
    print(f"| processes | shard | {' | '.join(PHASES)} |\n|---|---|{'---:|' * len(PHASES)}")
    for processes in given.processes:
        print(measure(processes, given.classes, given.dim), flush=True)


if __name__ == "__main__":
    main()
