"""Class names in scripts that matplotlib's own font lacks: another font's glyphs, or the class's number."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from rich.cells import cell_len

from arcface_pl.figures import draw_confusion
from arcface_pl.figures import fonts as fonts_module
from arcface_pl.figures.contact_sheet import draw_contact_sheet
from arcface_pl.figures.projection import draw_projection
from arcface_pl.figures.style import shorten, to_pixels

NAMES = {
    "Chinese": "猫和狗",
    "Japanese": "ねこ",
    "Korean": "고양이",
    "Devanagari": "बिल्ली",
    "Thai": "แมว",
    "emoji": "\U0001f9a9\ufe0f",  # a flamingo, with the selector that asks for its colored form
}
IN_DEJAVU = ["cat", "кошка", "γάτα", "قطة", "Çédille", "\N{GRINNING FACE}"]
COUNTS = torch.tensor([[3, 1], [0, 4]])


@pytest.fixture(autouse=True)
def nothing_said() -> Iterator[None]:
    for cached in (fonts_module._said, fonts_module._family):
        cached.cache_clear()
    yield
    for cached in (fonts_module._said, fonts_module._family):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def only_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fonts as on a machine that has none beside matplotlib's, one of which has a box for every character."""
    kept = [each for each in fontManager.ttflist if each.name.startswith(("DejaVu Sans", "Last Resort"))]
    monkeypatch.setattr(fontManager, "ttflist", kept)


@pytest.fixture
def a_font(tmp_path: Path) -> None:
    """A font that draws every character of `NAMES` as a filled square, which no other font has."""
    pen = TTGlyphPen(None)
    for place, point in enumerate([(0, 0), (0, 1000), (1000, 1000), (1000, 0)]):
        (pen.lineTo if place else pen.moveTo)(point)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    characters = {ord(each) for name in NAMES.values() for each in name}
    builder.setupCharacterMap(dict.fromkeys(characters, "square"))
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(tmp_path / "squares.ttf")
    fontManager.addfont(str(tmp_path / "squares.ttf"))


def drawn(names: list[str]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return to_pixels(draw_confusion(COUNTS, names, "test"))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_font_that_has_the_characters_is_used(
    name: str, a_font: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = drawn([name, "dog"])
    ink = (pixels.max(2) < 60).astype(np.uint8)
    solid = np.lib.stride_tricks.sliding_window_view(ink, (7, 7)).all((2, 3))
    empty = np.lib.stride_tricks.sliding_window_view((drawn(["cat", "dog"]).max(2) < 60), (7, 7)).all((2, 3))
    assert solid.sum() > empty.sum()  # filled squares of ten pixels, and no outlined boxes
    assert not caplog.records


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_without_such_a_font_the_number_is_shown_and_said_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert (drawn([name, "dog"]) == drawn(["#0", "dog"])).all()
        assert shorten(name, among=["dog", name]) == "#1"
    (record,) = caplog.records
    assert f"figures: class name: got {name!r}; expected characters that an installed font has" in record.getMessage()


@pytest.mark.parametrize("name", IN_DEJAVU)
def test_what_the_default_font_has_is_drawn_with_it(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert shorten(name, among=["dog", name]) == name
    figure = draw_confusion(COUNTS, [name, "dog"], "test")
    to_pixels(figure)
    assert {tuple(text.get_fontfamily()) for text in figure.findobj(Text)} == {("sans-serif",)}
    assert not caplog.records


def test_names_without_their_number_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw_projection(np.random.default_rng(0).normal(size=(6, 2)), ["狗", "猫", "dog"] * 2, "t-SNE", 6)
        to_pixels(figure)
        to_pixels(draw_contact_sheet(torch.rand(2, 1, 4, 4), ["is 猫", "is dog"], "sheet"))
    assert {"\\u732b", "\\u72d7", "dog"} <= {text.get_text() for text in figure.findobj(Text)}


def test_a_wide_character_takes_two_places(a_font: None) -> None:
    name = "猫和狗" * 9
    assert cell_len(shorten(name)) <= 16
    assert cell_len(shorten(name)) >= 14
    assert shorten(name).startswith("猫和狗")
    assert shorten(name).endswith("和狗")
    assert shorten("猫" * 8) == "猫" * 8
