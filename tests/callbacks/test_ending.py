"""What ends a process of a run: a signal where there is nothing to save, or the end of another process."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from arcface_pl.callbacks.run import processes
from arcface_pl.callbacks.run.signals import STOP_SIGNALS, Stopped, StopRequest, end_at_once, restore

NAMES = [f"SIG{name}" for name in STOP_SIGNALS if hasattr(signal, f"SIG{name}")]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[signal.Signals, Any]]:
    """The handlers before the test, which are put back after it; none of them ends the test's own process."""
    numbers = [signal.Signals[name] for name in NAMES]
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    yield {number: signal.getsignal(number) for number in numbers}
    restore(before)


def test_a_signal_ends_at_once_with_its_exit_code(handlers: dict[signal.Signals, Any]) -> None:
    before = end_at_once()
    for number in handlers:
        with pytest.raises(Stopped) as stopped:
            signal.raise_signal(number)
        assert stopped.value.code == 128 + number
        assert stopped.value.signum is number
    restore(before)
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_outside_the_main_thread_handlers_stay(handlers: dict[signal.Signals, Any]) -> None:
    """Python allows handlers in the main thread only; a Trainer may run in another."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: restore(end_at_once())).result()
        request = StopRequest()
        pool.submit(request.listen).result()
        pool.submit(request.release).result()
    assert {number: signal.getsignal(number) for number in handlers} == handlers


@pytest.mark.parametrize(
    ("hook", "function", "ends"),
    [
        ("on_validation_start", "validate", True),
        ("on_test_start", "test", True),
        ("on_predict_start", "predict", True),
        ("on_validation_start", "fit", False),  # training saves first
    ],
)
def test_evaluation_ends_at_once_on_a_signal(hook: str, function: str, ends: bool) -> None:
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn=function))
    getattr(processes.EndTogether(), hook)(trainer, None)
    if ends:
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
    else:
        signal.raise_signal(signal.SIGTERM)


class Logger:
    """Notes how it was closed."""

    def __init__(self) -> None:
        self.status = ""

    def finalize(self, status: str) -> None:
        self.status = status


def test_a_process_ends_as_the_first_one_that_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Two processes in two threads of this one, which tell each other of their end through the store in memory."""
    codes: list[int] = []
    ended, logger = threading.Event(), Logger()
    strategy = SimpleNamespace(launcher=None)

    def leave(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr(processes, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(processes, "os", SimpleNamespace(_exit=leave, getppid=lambda: 1))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        ranks: list[Any] = []
        for rank in (0, 1):
            monkeypatch.setattr(processes._Watch, "_number", 0)  # each process counts for itself
            settings = {"world_size": 2, "global_rank": rank, "local_rank": 0, "strategy": strategy}
            trainer = SimpleNamespace(**settings, loggers=[logger] if rank == 0 else [])
            ranks.append(processes.EndTogether())
            ranks[rank].setup(trainer, None, "fit")
        assert sum(each.name == "watch-over-processes" for each in threading.enumerate()) == 2
        ranks[1].on_exception(None, None, SystemExit(7))  # returns when the other has heard it
        assert ended.wait(30)
        ranks[0].teardown(None, None, "fit")
        ranks[1].teardown(None, None, "fit")
    finally:
        dist.destroy_process_group()
    assert {*codes} == {7}  # a process would have ended at the first
    assert logger.status == "failed"
    assert "process 1 of the run failed: SystemExit: 7" in capsys.readouterr().err
    assert not any(each.name == "watch-over-processes" for each in threading.enumerate())
