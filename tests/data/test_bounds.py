"""Whole numbers that data modules take: every one of every module has bounds."""

import inspect
import typing
from pathlib import Path
from typing import Any

import pytest
from lightning import LightningDataModule

from arcface_pl import data
from arcface_pl.data import ImageDataModule, MNISTDataModule, OmniglotDataModule

MODULES = [
    each
    for each in vars(data).values()
    if inspect.isclass(each) and issubclass(each, LightningDataModule) and each is not ImageDataModule
]
LEAST = {
    "batch_size": 1,
    "eval_batch_size": 1,
    "image_size": 4,
    "images_per_class": 2,
    "num_workers": 0,
    "seed": 0,
}
"""The smallest that is taken; a whole number without a row is a new setting, to be given bounds."""


def whole_numbers(module: type) -> dict[str, Any]:
    """Return the arguments of the constructors that are whole numbers, or null, with their types."""
    found: dict[str, Any] = {}
    for base in module.__mro__:
        if issubclass(base, LightningDataModule) and base is not LightningDataModule and "__init__" in vars(base):
            hints = typing.get_type_hints(base.__init__)
            found |= {name: hint for name, hint in hints.items() if hint in (int, int | None)}
    return found


def build(module: type, folder: Path, **given: Any) -> None:
    needed = {"root": str(folder), "table": str(folder / "table.csv"), "pairs_file": "pairs.txt"}
    names = set().union(*(inspect.signature(base).parameters for base in module.__mro__[:-1]))
    module(**{name: value for name, value in needed.items() if name in names}, **given)


def test_all_of_them_are_known() -> None:
    assert len(MODULES) >= 6
    assert set().union(*map(whole_numbers, MODULES)) == set(LEAST)


@pytest.mark.parametrize("module", MODULES)
def test_every_whole_number_of_every_data_module_has_bounds(module: Any, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    names = whole_numbers(module)
    assert names
    for name, hint in names.items():
        null = (None,) if hint is int else ()
        for wrong in (LEAST[name] - 1, 10**12 if name != "seed" else 2**64, 10**30, True, float("nan"), "2", *null):
            with pytest.raises(ValueError, match=f"^{name}: got {wrong!r}; expected "):
                build(module, tmp_path, **{name: wrong})


@pytest.mark.parametrize("wrong", [5, True, "ab"])
@pytest.mark.parametrize("module", [MNISTDataModule, OmniglotDataModule])
def test_classes_are_a_list(module: Any, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"^classes: got {wrong!r}; expected a list of classes"):
        module(classes=wrong)
