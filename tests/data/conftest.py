from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import Server, serve
from made_up import MadeUp, make_up

from arcface_pl.data.sources.catalog import CATALOG, DatasetSpec


@pytest.fixture(scope="session")
def made_up() -> MadeUp:
    return make_up()


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep data sets of the machine, and the network, out of the tests."""
    monkeypatch.delenv("ARCFACE_PL_DATA_DIR", raising=False)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.chdir(tmp_path)
    for spec in list(CATALOG.values()):
        monkeypatch.setitem(CATALOG, spec.name, replace(spec, mirrors=()))


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[DatasetSpec], None]:
    """Put a spec into the catalog for the time of a test."""
    return lambda spec: monkeypatch.setitem(CATALOG, spec.name, spec)


@pytest.fixture
def server(made_up: MadeUp) -> Iterator[Server]:
    with serve(made_up.files) as running:
        yield running
