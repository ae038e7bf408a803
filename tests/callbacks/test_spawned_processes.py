"""Strategies whose processes are spawned or forked from Python: the run's results come back to the main process."""

import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule, callbacks
from arcface_pl.training.schedules import OneCycle


def all_callbacks() -> list[Any]:
    """What base.yaml has."""
    return [
        callbacks.RunProgressBar(),
        callbacks.RunCheckpoint(),
        callbacks.ThresholdCalibration(),
        callbacks.EndTogether(),
        LearningRateMonitor("step"),
        callbacks.HealthCheck(),
        callbacks.AngleHistograms(),
        callbacks.ConfusionMatrix(),
        callbacks.EvaluationFigures(num_images=50),
        callbacks.EmbeddingProjector(num_images=50),
        callbacks.HyperParameters(["val/accuracy"]),
    ]


def main(strategy: str, folder: Path) -> None:
    warnings.simplefilter("ignore")
    L.seed_everything(0)
    adam = partial(torch.optim.Adam, lr=1e-2)
    module = ArcFaceModule(FastCNN(16, width=4), ArcFaceHead(16, 10), adam, OneCycle, num_threads=1)
    data = MNISTDataModule(dataset="digits", batch_size=100)
    trainer: Any = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=2,
        default_root_dir=folder,
        logger=callbacks.RunLogger(str(folder)),
        callbacks=all_callbacks(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=2,
    )
    if strategy == "ddp_notebook":
        assert trainer.logger.log_dir == str(folder / "lightning_logs" / "version_0")
    before = module.head.weight.detach().clone()
    trainer.fit(module, datamodule=data)
    policy = trainer.checkpoint_callback
    assert policy.path == folder / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt", policy.path
    assert policy.path.is_file()
    assert policy.best_score == policy.best_metrics["val/accuracy"] > 0.3
    assert not torch.equal(module.head.weight, before)
    (scores,) = trainer.test(module, datamodule=data, ckpt_path=policy.path, weights_only=True, verbose=False)
    assert scores["test/accuracy"] > 0.3
    print("finished", sorted(path.name for path in (folder / "lightning_logs").iterdir()))


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_notebook"])
def test_a_run_comes_to_its_end(strategy: str, tmp_path: Path) -> None:
    command = [sys.executable, __file__, strategy, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "finished ['version_0']"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
