"""The examples in the docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import arcface_pl.metrics

MODULES = [module.name for module in pkgutil.walk_packages(arcface_pl.metrics.__path__, "arcface_pl.metrics.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
