"""Verification sets of insightface (``lfw.bin``): a pickle of encoded images and of which pairs are alike.

A pickle can name any function to call. `_SetReader` knows the few names that such sets contain, and none of them is the
real one: arrays are put together here from their bytes.
"""

import io
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from arcface_pl.errors import DataError, expected, readable


class VerificationSet(NamedTuple):
    """Pairs of encoded images.

    Attributes:
        images: Contents of 2 P image files; a pair is two in a row.
        is_genuine: Whether the two are of one person, (P,) bool.
    """

    images: list[bytes]
    is_genuine: Tensor


def read_verification_set(path: Path) -> VerificationSet:
    """Read a verification set; nothing that the file names is imported or called.

    Args:
        path: A pickle of two lists, written by Python 2 or 3: encoded images, as bytes or arrays of uint8, and for each
            two of them whether they are alike, as bools, 0 and 1, or numpy's.

    Raises:
        DataError: If it cannot be read, holds anything else, or the lists do not fit.
    """
    name, accepted = f"data.pairs_file {path}", "a pickle of a list of encoded images and one of same or different"
    with readable("data.pairs_file", path, accepted):
        raw = path.read_bytes()
    try:
        content = _SetReader(io.BytesIO(raw), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly every kind
        raise DataError(expected(name, " ".join(str(error).split()) or type(error).__name__, accepted)) from None
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise DataError(expected(name, type(content).__name__, accepted))
    images, same = (_items(each) for each in content)
    if images is None or same is None or len(images) != 2 * len(same) or not same:
        got = " and ".join("no list" if each is None else f"{len(each):,}" for each in (images, same))
        raise DataError(expected(name, got, f"{accepted}, two images a pair"))
    contents = [bytes(each) if isinstance(each, bytes | bytearray) else _encoded(each) for each in images]
    whole = [each for each in contents if each is not None]
    if len(whole) < len(contents):
        place = contents.index(None)
        raise DataError(expected(f"{name}, image {place}", type(images[place]).__name__, "the bytes of an image file"))
    if wrong := [place for place, each in enumerate(same) if each not in (0, 1)]:
        raise DataError(expected(f"{name}, pair {wrong[0]}", type(same[wrong[0]]).__name__, "True or False"))
    return VerificationSet(whole, torch.tensor([bool(each) for each in same]))


def _items(value: Any) -> list[Any] | None:
    value = value.value if isinstance(value, _Array) else value
    return value.tolist() if isinstance(value, np.ndarray) else [*value] if isinstance(value, tuple | list) else None


def _encoded(value: Any) -> bytes | None:
    value = value.value if isinstance(value, _Array) else None
    return value.tobytes() if isinstance(value, np.ndarray) and value.dtype == np.uint8 else None


class _SetReader(pickle.Unpickler):
    """Knows bytes, numbers, lists and tuples, and numpy's arrays and scalars of numbers."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for a known name.

        Raises:
            UnpicklingError: If the name is another one.
        """
        module = {"__builtin__": "builtins"}.get(module, module.replace("numpy._core", "numpy.core"))  # older names
        place = f"{module}.{name}"
        if place not in _STAND_INS:
            raise pickle.UnpicklingError(f"the name {module}.{name}, which is not called")
        return _StandIn(_STAND_INS[place])

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to what is outside the file."""
        raise pickle.UnpicklingError("a reference to another file")


class _StandIn:
    """Calls a function of this file. The pickle cannot set anything on it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *values: Any) -> Any:
        return self._function(*values)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state where there is none")


class _Type:
    """The dtype of an array: a number, or anything (then an array is a list)."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else code
        if not re.fullmatch(r"[biuf][1248]|O8?", self.code):
            raise pickle.UnpicklingError(f"an array of {self.code}")
        self.order = "|"

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.order = order if order in ("<", ">") else "|"

    def read(self, content: Any, count: int) -> np.ndarray:
        if self.code[0] == "O":
            raise pickle.UnpicklingError("a number without a type")
        content = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(content, np.dtype(self.order.replace("|", "=") + self.code), count)


class _Array:
    """An array, filled when its state is set."""

    value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, _, content = state
        self.value = content if isinstance(content, list) else kind.read(content, math.prod(shape)).reshape(shape)


def _frombuffer(content: Any, kind: _Type, shape: tuple[int, ...], _: Any) -> _Array:
    made = _Array()
    made.value = kind.read(content, math.prod(shape)).reshape(shape)
    return made


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Return bytes as Python 3 writes them with protocol 2."""
    if encoding not in ("latin1", b"latin1", "latin-1", b"latin-1"):
        raise pickle.UnpicklingError(f"an encoding {encoding}")
    if not isinstance(text, str | bytes):  # of a number, bytes() would make as many
        raise pickle.UnpicklingError(f"bytes of {type(text).__name__}")
    return text.encode("latin1") if isinstance(text, str) else text


_STAND_INS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "builtins.bytes": lambda content=b"", *rest: _encode(content, *rest),
    "builtins.bytearray": lambda content=b"", *rest: _encode(content, *rest),
    "numpy.dtype": _Type,
    "numpy.ndarray": _Array,
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.core.multiarray.scalar": lambda kind, content: kind.read(content, 1)[0],
    "numpy.core.numeric._frombuffer": _frombuffer,
}
