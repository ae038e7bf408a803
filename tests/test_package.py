import importlib
from pathlib import Path

import arcface_pl
from arcface_pl.heads import HEADS


def test_every_public_name_is_there_and_every_head_is_public() -> None:
    for name in arcface_pl.__all__:
        assert getattr(arcface_pl, name).__name__ == name
    assert set(HEADS) <= set(arcface_pl.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(arcface_pl, "NoSuchHead")


UPPER = ("import lightning", "from lightning", "arcface_pl.module", "arcface_pl.cli", "arcface_pl.data")


def test_the_rooms_import_one_way() -> None:
    """Nothing below the trainer imports lightning."""
    for room in ("functional", "heads", "backbones", "preprocessing", "metrics", "figures"):
        package = importlib.import_module(f"arcface_pl.{room}")
        assert package.__file__ is not None
        here = Path(package.__file__)
        files = here.parent.rglob("*.py") if here.name == "__init__.py" else [here]
        for file in files:
            text = file.read_text()
            for forbidden in UPPER:
                assert forbidden not in text, f"{file.name} has {forbidden!r}"
