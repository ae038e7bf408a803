"""Run by the tests as a program: `fit` with a fault in one of its processes.

    python faulty_fit.py FAULT RANK STEP fit ...

FAULT is raise (an exception in the training step), nan (a loss that is not a number), infinite_gradient, or one of
SIGNALS (sent to itself, as a user or a scheduler would send it), or none.
"""

import os
import signal
import sys
from typing import Any

import torch

from arcface_pl import ArcFaceModule
from arcface_pl.cli import main

FAULT, RANK, STEP = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
SIGNALS = {name: getattr(signal, f"SIG{name.upper()}") for name in ("kill", "term", "int", "hup", "usr2")}


def faulty(step: Any) -> Any:
    def training_step(self: ArcFaceModule, batch: Any, batch_idx: int) -> Any:
        loss = step(self, batch, batch_idx)
        if self.global_step != STEP or self.global_rank != RANK:
            return loss
        if FAULT == "raise":
            raise KeyError("a fault of the test")
        if FAULT in SIGNALS:
            os.kill(os.getpid(), SIGNALS[FAULT])
        return loss

    return training_step


def poisoned(forward: Any) -> Any:
    def wrapped(self: ArcFaceModule, images: torch.Tensor) -> torch.Tensor:
        embeddings = forward(self, images)
        here = self.training and self.global_step == STEP and self.global_rank == RANK
        if here and FAULT == "nan":
            embeddings = embeddings * float("nan")
        if here and FAULT == "infinite_gradient":
            embeddings.register_hook(lambda gradient: gradient * float("inf"))
        return embeddings

    return wrapped


ArcFaceModule.training_step = faulty(ArcFaceModule.training_step)  # type: ignore[method-assign]
ArcFaceModule.forward = poisoned(ArcFaceModule.forward)  # type: ignore[method-assign]
main(sys.argv[4:])
