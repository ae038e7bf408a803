"""Processes that read images: how long they live."""

import gc
import multiprocessing
from multiprocessing.process import BaseProcess

import pytest

from arcface_pl.data.folders.workers import Workers

pytestmark = pytest.mark.timeout(60)


def double(item: int) -> int:
    return 2 * item


@pytest.mark.parametrize("keep", [None, False, True])
def test_processes_end_with_a_pass_unless_they_are_kept(keep: bool | None) -> None:
    before = {child.pid for child in multiprocessing.active_children()}
    workers = Workers(double, 1, **({} if keep is None else {"keep": keep}))
    for _ in range(2):
        assert list(workers.map([3, 1, 2])) == [6, 2, 4]
    alive = {child.pid for child in multiprocessing.active_children()} - before
    assert len(alive) == (1 if keep else 0)


def test_no_process_is_started_for_none() -> None:
    before = multiprocessing.active_children()
    passes = Workers(double, 0, keep=True).map([3, 1])
    assert next(passes) == 6
    assert multiprocessing.active_children() == before


def test_processes_are_told_to_end_by_the_garbage_collector_too(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[object] = []
    terminate = BaseProcess.terminate
    monkeypatch.setattr(BaseProcess, "terminate", lambda process: (killed.append(process), terminate(process)))
    before = multiprocessing.active_children()
    workers = Workers(double, 2, keep=True)
    assert list(workers.map([3, 1])) == [6, 2]
    started = [child for child in multiprocessing.active_children() if child not in before]
    cycle: list[object] = [workers]
    cycle.append(cycle)
    del workers, cycle
    gc.collect()
    assert len(started) == 2
    assert not any(child.is_alive() for child in started)
    assert not killed  # as those are that do not end within 5 seconds
