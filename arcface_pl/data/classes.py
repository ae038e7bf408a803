"""Which classes are trained on, and which are held out, to be met for the first time in evaluation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

__all__ = ["ClassSplit", "split_classes", "take_classes"]


class ClassSplit(NamedTuple):
    """Two disjoint sets of a data set's labels, each in ascending order.

    Attributes:
        trained: Labels of the classes that the network learns; at least two.
        held_out: Labels of those it never sees in training; none, or at least two.
    """

    trained: list[int]
    held_out: list[int]


def split_classes(
    names: Sequence[str], classes: Sequence[int | str] | None, held_out_classes: Sequence[int | str] | None
) -> ClassSplit:
    """Find out which classes are trained on and which are held out.

    A class is given by its name, or by its number in label order where none has that name. Where one of the two lists
    is unset, it is all that the other leaves; where both are, everything is trained on. Given both, what is in neither
    is left out altogether.

    Args:
        names: Names of all classes, in label order.
        classes: Those to train on, or None.
        held_out_classes: Those to hold out, or None. An empty list holds out none.

    Returns:
        The labels of both.

    Raises:
        ValueError: If a class is unknown, given twice or in both lists, if fewer than two are trained on, or one alone
            is held out: its images make no pair of two classes.

    Example:
        >>> split_classes(["cat", "cow", "dog", "hen"], None, ["cow", 3])
        ClassSplit(trained=[0, 2], held_out=[1, 3])
    """
    trained, held_out = _labels("classes", names, classes), _labels("held_out_classes", names, held_out_classes)
    everything = set(range(len(names)))
    if trained is None:
        trained = everything - (held_out or set())
    if held_out is None:
        held_out = everything - trained
    if both := trained & held_out:
        raise ValueError(f"held_out_classes: got {_listed(names, both)}, which classes has too; accepts other ones")
    if len(trained) < 2:
        left = f"only {_listed(names, trained)} is" if trained else "none are"
        raise ValueError(f"classes: {left} left to train on; accepts at least two")
    if len(held_out) == 1:
        raise ValueError(
            f"held_out_classes: only {_listed(names, held_out)} is held out; accepts at least two, to be told apart, "
            "or [] for none"
        )
    return ClassSplit(sorted(trained), sorted(held_out))


def take_classes(part: Any, labels: Sequence[int]) -> Any:
    """Keep the images of some classes, whose labels become 0, 1, ... in the order given.

    Args:
        part: `LabelledImages`, or another named tuple with ``labels`` and ``select``, as `LabelledFiles`.
        labels: The classes to keep.

    Returns:
        Of the same type as ``part``.
    """
    places = torch.full((max([*part.labels.unique().tolist(), *labels], default=-1) + 1,), -1)
    places[list(labels)] = torch.arange(len(labels))
    renumbered = places[part.labels]
    if renumbered.equal(part.labels):
        return part  # whose images need no copy
    kept = (renumbered >= 0).nonzero().flatten()
    return part.select(kept)._replace(labels=renumbered[kept])


def _labels(key: str, names: Sequence[str], given: Sequence[int | str] | None) -> set[int] | None:
    if given is None:
        return None
    if isinstance(given, str):
        raise ValueError(f"{key}: got {given!r}, accepts a list of names or numbers")
    numbers = {name: label for label, name in enumerate(names)}
    found = [_label(key, numbers, each) for each in given]
    if repeated := {label for label, count in Counter(found).items() if count > 1}:
        raise ValueError(f"{key}: got {_listed(names, repeated)} more than once")
    return set(found)


def _label(key: str, numbers: Mapping[str, int], given: int | str) -> int:
    if str(given) in numbers:
        return numbers[str(given)]
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < len(numbers):
        return given
    raise ValueError(f"{key}: got {given!r}, accepts {', '.join(numbers)}, or numbers from 0 to {len(numbers) - 1}")


def _listed(names: Sequence[str], labels: set[int]) -> str:
    return ", ".join(names[label] for label in sorted(labels))
