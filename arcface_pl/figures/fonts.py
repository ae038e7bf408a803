"""Fonts for names in any script: the one that matplotlib brings has no Chinese, Japanese, Korean or Devanagari."""

import logging
import re
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from arcface_pl.errors import expected, printable

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_LOG = logging.getLogger(__name__)
# Of several fonts that have a character; without serifs, as matplotlib's own. The last has boxes for everything
_PREFERRED = ("Noto Sans", "Source Han Sans", "PingFang", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun")
_BOXES = ("Last Resort", "Adobe Blank")
_UNSEEN = re.compile("[\ufe00-\ufe0f]")  # variation selectors, which say how the character before them looks


def is_drawable(name: str) -> bool:
    """Return whether the installed fonts have all characters of a name; says once which one they have not."""
    missing = "".join(each for each in _UNSEEN.sub("", printable(name)) if not each.isascii() and _family(each) is None)
    if missing:
        _say_once(missing[0], name)
    return not missing


@cache
def _said() -> list[str]:
    return []


def _say_once(character: str, name: str) -> None:
    if not _said():
        _said().append(name)
        has = f"characters that an installed font has, unlike U+{ord(character):04X}"
        remedy = "Such classes are drawn as #number, from 0. Install a font that has them, such as Noto Sans CJK"
        _LOG.warning(expected("figures: class name", name, has, remedy))


def fit_fonts(figure: "Figure") -> None:
    """Let the texts of a figure use other fonts for characters that their own has not."""
    from matplotlib.text import Text

    for axes in figure.axes:
        axes.get_xticklabels()  # they are written when asked for
        axes.get_yticklabels()
    texts = [each for each in figure.findobj(Text) if isinstance(each, Text)]
    families = _families("".join(each.get_text() for each in texts))
    for text in texts if families else ():
        _add(text, families)


def fit_font(text: "Text") -> None:
    """Do as `fit_fonts` for a text that is measured before the figure is drawn."""
    _add(text, _families(text.get_text()))


def _add(text: "Text", families: list[str]) -> None:
    text.set_fontfamily(list(dict.fromkeys([*text.get_fontfamily(), *families])))


def _families(text: str) -> list[str]:
    return sorted({family for each in set(text) if not each.isascii() and (family := _family(each))})


@cache
def _family(character: str) -> str | None:
    """Return the family of a font that has a character: "" if the default has it, None if none has."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    if ord(character) in _characters(findfont(FontProperties())):
        return ""
    entries = {(not each.name.startswith(_PREFERRED), each.name, each.fname) for each in fontManager.ttflist
               if each.style == "normal" and not each.name.startswith(_BOXES)}  # fmt: skip
    return next((name for _, name, path in sorted(entries) if ord(character) in _characters(path)), None)


@cache
def _characters(path: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    with suppress(Exception):  # a damaged file among the system's
        return frozenset(get_font(path).get_charmap())
    return frozenset()
