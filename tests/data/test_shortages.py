"""Notices on splits that are too small for verification or a threshold."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from arcface_pl.data import TableDataModule
from arcface_pl.data.labelled import LabelledImages
from arcface_pl.data.parts import Parts, shortages


def part(classes: int, each: int) -> LabelledImages:
    labels = torch.arange(classes).repeat_interleave(each)
    return LabelledImages(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)


def said(
    val: tuple[int, int],
    test: tuple[int, int] = (50, 2),
    unseen: tuple[int, int] = (0, 0),
    watch: bool = False,
    given: Sequence[str] = (),
) -> str:
    none = part(0, 0)
    parts = Parts("", part(50, 6), part(*val), part(*test), part(*unseen), none)
    return "; ".join(shortages(parts, watch_test=watch, given=given))


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


def test_a_fraction_is_advised_only_where_it_applies() -> None:
    assert said((50, 1), given=["val", "test"]).endswith("Add validation images, or set data.held_out_classes 0.2")
    assert said((50, 2), (50, 1), given=["test"]).endswith("Add test images")
    assert said((50, 2), (50, 1), given=["val"]).endswith("Set data.test_fraction 0.23, or add test images")


@pytest.mark.parametrize("divided", [True, False])
def test_a_table_with_divided_rows_is_not_told_to_divide_them(tmp_path: Path, divided: bool) -> None:
    splits = ["train"] * 4 + ["val", "test"] if divided else [""] * 6
    rows = ["path,label,split"]
    for number, (label, split) in enumerate((label, split) for label in "abc" for split in splits):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{label},{split}")
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    data = TableDataModule(str(tmp_path / "photos.csv"), image_size=16, num_workers=0)
    data.prepare_data()
    data.setup("fit")
    assert data.notices
    assert ("data.val_fraction" in " ".join(data.notices)) == (not divided)
