"""Several processes as one run: they agree without waiting, and the end of one is the end of all."""

import json
import os
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import Tensor

from arcface_pl.callbacks.run.private_apis import child_processes, default_store
from arcface_pl.callbacks.run.signals import Stopped, end_at_once
from arcface_pl.errors import UserError, printable

POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0


class Agreement:
    """The highest of what the processes of a run say at each step; none waits for another on the way.

    Args:
        world_size: How many they are.
        num_values: Numbers that are agreed on.
    """

    def __init__(self, world_size: int, num_values: int) -> None:
        # A group of its own, so that its messages stay apart from the gradients' and need no GPU.
        self._group: Any = dist.new_group(backend="gloo") if world_size > 1 else None
        self._asked: tuple[Any, Tensor] | None = None
        self._num_values = num_values

    def later(self, *values: int) -> list[int]:
        """Say ``values``; returns the highest of what was said in the call before, zeros in the first one.

        A lone process need not wait: it gets its own values at once.
        """
        if self._group is None:
            return list(values)
        known = self._collect()
        said = torch.tensor(values)
        self._asked = dist.all_reduce(said, dist.ReduceOp.MAX, self._group, async_op=True), said
        return known

    def now(self, *values: int) -> list[int]:
        """Say ``values`` and wait for the others' answer to them."""
        before = self.later(*values)
        return [max(pair) for pair in zip(before, self._collect(), strict=True)] if self._group is not None else before

    def _collect(self) -> list[int]:
        if self._asked is None:
            return [0] * self._num_values
        work, said = self._asked
        self._asked = None
        work.wait()
        return said.tolist()


class EndTogether(L.Callback):
    """Ends every process of a run when one of them fails, with that one's error and exit code.

    A process that waits for a failed one, in whichever call, would wait for ever. Here each one looks twice a second
    whether another has failed, beside its own work.
    """

    def __init__(self) -> None:
        self._watch: _Watch | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin to watch."""
        if trainer.world_size > 1 and dist.is_initialized():
            self._watch = _Watch(trainer)
            self._watch.start()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals back from the Trainer."""
        end_at_once()

    on_predict_start = on_test_start

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take them back, unless this is in the middle of training, which listens itself."""
        if trainer.state.fn == "validate":
            end_at_once()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Tell the others, and stay until they have heard it."""
        if self._watch is not None:
            self._watch.fail(exception)
            self._watch = None

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Watch no longer."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None


class _Watch(threading.Thread):
    """Looks at what the processes have in common: a store that lives in process 0."""

    _number = 0

    def __init__(self, trainer: L.Trainer) -> None:
        super().__init__(daemon=True, name="watch-over-processes")
        type(self)._number += 1
        self._trainer = trainer
        self._rank = trainer.global_rank
        # Every process makes as many of these, so that equal numbers mean the same one.
        name = f"arcface_pl/{self._number}"
        self._store = dist.PrefixStore(name, default_store())
        self._store.set_timeout(timedelta(seconds=GRACE_SECONDS))
        self._ended = threading.Event()
        # torchrun and SLURM look after their processes themselves.
        launched = trainer.local_rank > 0 and isinstance(
            getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment
        )
        self._launcher = os.getppid() if launched else None

    def run(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            if self._orphaned():
                # Whatever waits for it will end by itself, or not.
                if not self._ended.wait(GRACE_SECONDS):
                    os._exit(1)
                return
            failure = json.loads(self._store.get("failure")) if self._store.check(["failure"]) else None
            if failure is not None and failure["rank"] != self._rank and not self._ended.is_set():
                self._leave(failure)

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def fail(self, exception: BaseException) -> None:
        """Make known that this process fails; does not return where another one did so first."""
        self.stop()
        if self._orphaned():
            return  # nobody is left to be told
        if not (isinstance(exception, Stopped) and exception.agreed):
            mine = {"rank": self._rank, "code": _exit_code(exception), "message": _describe(exception)}
            first = json.loads(self._store.compare_set("failure", "", json.dumps(mine)))
            if first["rank"] != self._rank:
                self._leave(first)
            self._wait_until_heard()
        self._follow()

    def _leave(self, failure: dict[str, Any]) -> None:
        if self._rank == 0:
            for logger in self._trainer.loggers:
                logger.finalize("failed")
            said = f"process {failure['rank']} of the run failed: {failure['message']}"
            print(said, file=sys.stderr, flush=True)  # noqa: T201
        self._store.add("heard", 1)
        if self._rank == 0:  # which takes the store along
            self._wait_until_heard()
            time.sleep(POLL_SECONDS)
        self._follow()
        # The main thread may be waiting where no exception reaches it.
        os._exit(failure["code"])

    def _wait_until_heard(self) -> None:
        end = time.monotonic() + GRACE_SECONDS
        others = self._trainer.world_size - 1
        while not self._orphaned() and self._store.add("heard", 0) < others:
            if time.monotonic() > end or self._childless():
                return
            time.sleep(POLL_SECONDS / 10)

    def _childless(self) -> bool:
        children = child_processes(self._trainer)
        return bool(children) and all(child.poll() is not None for child in children)

    def _orphaned(self) -> bool:
        return self._launcher is not None and os.getppid() != self._launcher

    def _follow(self) -> None:
        """Go after the process that launched this one, which Lightning kills where one of its children ends before."""
        end = time.monotonic() + GRACE_SECONDS
        while self._launcher is not None and not self._orphaned() and time.monotonic() < end:
            time.sleep(POLL_SECONDS / 10)


def _exit_code(exception: BaseException) -> int:
    if isinstance(exception, SystemExit) and isinstance(exception.code, int):
        return exception.code
    return 2 if isinstance(exception, UserError) else 1


def _describe(exception: BaseException) -> str:
    if isinstance(exception, Stopped):
        return f"ended by {exception.signum.name}"
    text = printable(" ".join(str(exception).split()))
    return text if isinstance(exception, UserError) else f"{type(exception).__name__}: {text}"
