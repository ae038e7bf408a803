"""The examples in the docstrings of the whole package."""

import doctest
import importlib
import pkgutil

import pytest

import arcface_pl

MODULES = [module.name for module in pkgutil.walk_packages(arcface_pl.__path__, "arcface_pl.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) >= 20
