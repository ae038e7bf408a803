"""Which classes are trained on and which are held out for evaluation."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
import yaml

from arcface_pl.errors import expected, listed
from arcface_pl.seeding import derive_seed

GivenClass = str | int | float | bool | None
"""A class as a config gives it: its name, or what YAML makes of the name if it is not quoted."""

HeldOut = Sequence[GivenClass] | int | float | None
"""Classes to hold out: a list, how many, or which share of them."""


class ClassSplit(NamedTuple):
    """Two disjoint sets of labels, each in ascending order.

    Attributes:
        trained: Labels of the classes to train on; at least two.
        held_out: Labels of the held-out classes; none, or at least two.
    """

    trained: list[int]
    held_out: list[int]


def split_classes(
    names: Sequence[str],
    classes: Sequence[GivenClass] | None,
    held_out_classes: HeldOut,
    *,
    numbered: bool = True,
    fewest: int = 2,
    seed: int = 0,
) -> ClassSplit:
    """Resolve the classes to train on and the held-out ones.

    A list that is unset takes every class that the other one leaves; if both are unset, all classes are trained on.
    Classes in neither of two given lists are dropped.

    A class is found by its name. A value that is not text stands for the name that YAML reads as that value: 7 for a
    class ``007``, True for ``true``. If no name matches, a number is a position in label order, where ``numbered``
    allows it.

    Args:
        names: Names of all classes, in label order.
        classes: Classes to train on, or None.
        held_out_classes: Classes to hold out, or None. An empty list holds out none. A number of classes, at least 2,
            or a share in (0, 1) is drawn from ``classes``, or from all.
        numbered: Whether a class may be given by its number in label order.
        fewest: Fewest names to train on, and to hold out unless none is: 2, or 1 if each stands for several classes.
        seed: Seed of that draw.

    Returns:
        The labels of both.

    Raises:
        ValueError: If a class is unknown or ambiguous, given twice or in both lists, if fewer than ``fewest`` are left
            to train on, or are held out: a single class has no pairs of different classes.

    Example:
        >>> split_classes(["cat", "cow", "dog", "hen"], None, ["cow", 3])
        ClassSplit(trained=[0, 2], held_out=[1, 3])
        >>> split_classes(["001", "002", "1e3"], [1, 1000.0], [], numbered=False)
        ClassSplit(trained=[0, 2], held_out=[])
    """
    trained = _labels("classes", names, classes, numbered)
    everything = set(range(len(names)))
    if isinstance(held_out_classes, int | float):
        pool = everything if trained is None else trained
        drawn = _drawn(held_out_classes, sorted(pool), fewest, seed)
        return ClassSplit(sorted(pool - drawn), sorted(drawn))
    held_out = _labels("held_out_classes", names, held_out_classes, numbered)
    if trained is None:
        trained = everything - (held_out or set())
    if held_out is None:
        held_out = everything - trained
    if both := trained & held_out:
        raise ValueError(expected("held_out_classes", _names(names, both), "classes that are not in classes too"))
    if len(trained) < fewest:
        accepted = f"at least {'two classes' if fewest == 2 else 'one'} to train on"
        raise ValueError(expected("classes", _names(names, trained), accepted))
    if 0 < len(held_out) < fewest:
        accepted = "at least two held-out classes, or [] for none"
        raise ValueError(expected("held_out_classes", _names(names, held_out), accepted))
    return ClassSplit(sorted(trained), sorted(held_out))


def take_classes(part: Any, labels: Sequence[int]) -> Any:
    """Select the images of some classes and relabel them 0, 1, ... in the given order.

    Args:
        part: `LabelledImages`, or another named tuple with ``labels`` and ``select``, such as `LabelledFiles`.
        labels: The classes to keep.

    Returns:
        The selection, of the type of ``part``.
    """
    places = torch.full((max([*part.labels.unique().tolist(), *labels], default=-1) + 1,), -1)
    places[list(labels)] = torch.arange(len(labels))
    renumbered = places[part.labels]
    if renumbered.equal(part.labels):
        return part  # without copying the images
    kept = (renumbered >= 0).nonzero().flatten()
    return part.select(kept)._replace(labels=renumbered[kept])


def _drawn(wanted: float, labels: list[int], fewest: int, seed: int) -> set[int]:
    """Draw a share, or a number, of the labels."""
    count = wanted if isinstance(wanted, int) else round(wanted * len(labels)) if 0 < wanted < 1 else 0
    if isinstance(wanted, bool) or not fewest <= count <= len(labels) - fewest:
        most = len(labels) - fewest
        accepted = (
            f"a list of classes, {fewest} to {most} of the {len(labels)} classes, or a share that amounts to that many"
        )
        raise ValueError(expected("held_out_classes", wanted, accepted))
    generator = torch.Generator().manual_seed(derive_seed(seed, "held-out classes"))
    return {labels[place] for place in torch.randperm(len(labels), generator=generator)[:count].tolist()}


def _labels(key: str, names: Sequence[str], given: Sequence[GivenClass] | None, numbered: bool) -> set[int] | None:
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(expected(key, given, "a list of classes"))
    numbers = {name: label for label, name in enumerate(names)}
    unquoted: dict[str, list[str]] = {}
    if not all(isinstance(each, str) for each in given):
        for name in names:
            for value in _unquoted(name):
                unquoted.setdefault(value, []).append(name)
    found = []
    for each in given:
        if isinstance(each, str):
            matches = [form for form in (each, unicodedata.normalize("NFC", each)) if form in numbers][:1]
        else:
            matches = unquoted.get(repr(each), [])
        if len(matches) > 1:
            raise ValueError(expected(key, each, f"one class, not {listed(matches)}", "Put the name in quotes"))
        if matches:
            found.append(numbers[matches[0]])
        elif numbered and str(each).isdecimal() and int(each or 0) < len(names):
            found.append(int(each or 0))
        else:
            raise ValueError(expected(key, each, _accepted(names, numbered)))
    if repeated := {label for label, count in Counter(found).items() if count > 1}:
        raise ValueError(expected(key, _names(names, repeated), "each class once"))
    return set(found)


def _unquoted(name: str) -> set[str]:
    """What a class's name may become if it is not quoted, in YAML 1.1 and 1.2: the repr of its values but for text."""
    if name.isascii() and name.isdecimal() and str(int(name)) == name:
        return {name}  # the usual case, without the parser
    values = set()
    for read in (yaml.safe_load, int, float):
        with suppress(ValueError, yaml.YAMLError, RecursionError):
            value = read(name)
            if not isinstance(value, str | list | dict):
                values.add(repr(value))
                if read is int:
                    break
    return values


def _accepted(names: Sequence[str], numbered: bool) -> str:
    return listed([repr(name) for name in names]) + (f", or a number from 0 to {len(names) - 1}" if numbered else "")


def _names(names: Sequence[str], labels: set[int]) -> list[str]:
    return [names[label] for label in sorted(labels)]
