"""Notices on splits that are too small for verification or a threshold."""

import pytest
import torch

from arcface_pl.data.labelled import LabelledImages
from arcface_pl.data.parts import Parts, shortages


def part(classes: int, each: int) -> LabelledImages:
    labels = torch.arange(classes).repeat_interleave(each)
    return LabelledImages(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)


def said(
    val: tuple[int, int], test: tuple[int, int] = (50, 2), unseen: tuple[int, int] = (0, 0), watch: bool = False
) -> str:
    none = part(0, 0)
    parts = Parts("", part(50, 6), part(*val), part(*test), part(*unseen), none)
    return "; ".join(shortages(parts, watch_test=watch))


@pytest.mark.parametrize(
    ("val", "test", "unseen", "watch", "words"),
    [
        ((50, 2), (50, 2), (0, 0), False, ""),
        ((50, 1), (50, 2), (0, 0), False, "no two validation images are of one class"),
        ((0, 0), (50, 2), (0, 0), False, "no validation image"),
        ((1, 9), (50, 2), (0, 0), False, "all validation images are of one class"),
        ((5, 4), (50, 2), (0, 0), False, "only 160 pairs of validation images of different classes"),
        ((50, 1), (50, 2), (2, 2), False, ""),
        ((50, 1), (50, 2), (0, 0), True, ""),
        ((50, 2), (50, 1), (0, 0), False, "no two test images are of one class"),
    ],
)
def test_each_shortage_is_named(
    val: tuple[int, int], test: tuple[int, int], unseen: tuple[int, int], watch: bool, words: str
) -> None:
    found = said(val, test, unseen, watch)
    assert words in found
    assert bool(found) == bool(words)


def test_the_remedy_gives_each_class_two_images() -> None:
    """7 images of a class for training and validation: 2 of 7 are 29%."""
    assert "Set data.test_fraction 0.25" in said((50, 1), (50, 1))  # 6 + 1 + 1 images of a class
    assert "Set data.val_fraction 0.29, or data.held_out_classes 0.2" in said((50, 1))
