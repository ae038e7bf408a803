"""Training on some classes, evaluating on others."""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from made_up import MadeUp

from arcface_pl.data import DataError, LabelledImages, MNISTDataModule
from arcface_pl.data.classes import split_classes, take_classes
from arcface_pl.data.sources.catalog import DatasetSpec

NAMES = list("0123456789")


def ready(**arguments: Any) -> MNISTDataModule:
    data = MNISTDataModule(batch_size=32, **arguments)
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.fixture
def files(made_up: MadeUp, use: Callable[[DatasetSpec], None], tmp_path: Path) -> MadeUp:
    use(made_up.spec)
    made_up.write(tmp_path / "data")
    return made_up


@pytest.mark.parametrize(
    ("classes", "held_out", "expected"),
    [
        (None, None, (range(10), [])),
        (None, [8, "9"], (range(8), [8, 9])),
        ([1, 0, 5], None, ([0, 1, 5], [2, 3, 4, 6, 7, 8, 9])),
        ([1, 2], [9, 3], ([1, 2], [3, 9])),
        (range(9), [], (range(9), [])),
    ],
)
def test_an_unset_list_is_what_the_other_leaves(classes: Any, held_out: Any, expected: Any) -> None:
    assert split_classes(NAMES, classes, held_out) == tuple(map(list, expected))


def test_a_name_goes_before_a_number() -> None:
    assert split_classes(["10", "2", "0"], [2, 0], []) == ([1, 2], [])
    assert split_classes(["ant", "bee", "cow", "dog"], [0, "bee"], None) == ([0, 1], [2, 3])


ODD = ["001", "1e3", "2024-01-01", "true", "null", "+2", "0x3", "1_000", " 7", ".5", "12:30", "no", "-1", "Zoë", "cat"]


def test_whatever_yaml_makes_of_a_name_it_is_found() -> None:
    for name in ODD:
        (other,) = {"cat", "Zoë"} - {name} if name in ("cat", "Zoë") else {"cat"}
        in_yaml_1_2 = {"1e3": 1000.0, "no": "no", "12:30": "12:30", "2024-01-01": "2024-01-01"}
        forms = {repr(value): value for value in (name, yaml.safe_load(name), in_yaml_1_2.get(name, name))}
        for form in forms.values():
            expected = sorted([ODD.index(name), ODD.index(other)])
            assert split_classes(ODD, [form, other], [], numbered=False).trained == expected, form
    with pytest.raises(ValueError, match=r"classes: got 1000; expected"):
        split_classes(["a", "b", "1e3"], [1000], None, numbered=False)


def test_an_unquoted_name_that_could_be_two_is_refused() -> None:
    with pytest.raises(ValueError, match=r"classes: got 1; expected one class, not 1, 001. Put the name in quotes"):
        split_classes(["1", "001", "2"], [1, 2], [])
    assert split_classes(["1", "001", "2"], ["001", "1"], []).trained == [0, 1]


def test_a_number_is_a_position_only_where_classes_are_numbered() -> None:
    assert split_classes(["cat", "cow", "dog"], [2, "0"], []).trained == [0, 2]
    for given in (2, "2"):
        with pytest.raises(ValueError, match=f"classes: got {given!r}; expected 'cat', 'cow', 'dog'$"):
            split_classes(["cat", "cow", "dog"], [given, "cat"], [], numbered=False)


def test_an_accent_may_be_typed_in_either_form() -> None:
    names = [unicodedata.normalize("NFC", "Zoë"), "cat", "dog"]
    assert split_classes(names, [unicodedata.normalize("NFD", "Zoë"), "cat"], []).trained == [0, 1]


@pytest.mark.timeout(60)
def test_a_hundred_thousand_classes_are_divided_in_one_go() -> None:
    names = [f"person {number}" for number in range(100_000)]
    trained, held_out = split_classes(names, None, names[:50_000])
    assert (trained, held_out) == (list(range(50_000, 100_000)), list(range(50_000)))


WRONG = [
    ({"held_out_classes": [8, 10]}, "held_out_classes: got 10; expected '0', '1', .*, '9', or a number from 0 to 9"),
    ({"classes": ["eight"]}, "classes: got 'eight'; expected '0', '1'"),
    ({"classes": [-1, 2]}, "classes: got -1; expected"),
    ({"classes": "89"}, "classes: got '89'; expected a list"),
    ({"classes": [True, 2]}, "classes: got True"),
    ({"classes": [1, 1, 2]}, r"classes: got \['1'\]; expected each class once"),
    (
        {"classes": [1, 2, 3], "held_out_classes": [3, 2]},
        r"held_out_classes: got \['2', '3'\]; expected classes that are not in classes",
    ),
    ({"classes": [4]}, r"classes: got \['4'\]; expected at least two"),
    ({"held_out_classes": NAMES}, r"classes: got \[\]; expected at least two classes to train on"),
    ({"held_out_classes": [5]}, r"held_out_classes: got \['5'\]; expected at least two"),
    ({"classes": NAMES[1:]}, r"held_out_classes: got \['0'\]"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[str(arguments) for arguments, _ in WRONG])
def test_impossible_choices_are_refused_before_any_work(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        MNISTDataModule(**arguments)
    assert "\n" not in str(caught.value)


def test_every_image_is_in_one_part_with_its_own_label(files: MadeUp) -> None:
    data = ready(held_out_classes=[3, 8], augment=False, normalize=False)
    assert (data.num_classes, data.class_names, data.held_out_class_names) == (8, list("01245679"), ["3", "8"])
    seen = {
        split: [
            (tuple((255 * image).round().int().flatten().tolist()), names[label])
            for loader, names in loaders
            for images, labels in loader
            for image, label in zip(images, labels.tolist(), strict=True)
        ]
        for split, loaders in {
            "train": [
                (data.train_dataloader(), data.class_names),
                (data.val_dataloader(), data.class_names),
                (data.held_out_dataloader("val"), data.held_out_class_names),
            ],
            "test": [
                (data.test_dataloader(), data.class_names),
                (data.held_out_dataloader("test"), data.held_out_class_names),
            ],
        }.items()
    }
    for split, images, labels in zip(seen, files.images, files.labels, strict=True):
        expected = [
            (tuple(image.flatten().tolist()), str(label))
            for image, label in zip(images.int(), labels.tolist(), strict=True)
        ]
        assert sorted(seen[split]) == sorted(expected)
    assert sum(data.class_counts) == data.num_train
    assert min(data.class_counts) > 0


def test_classes_in_neither_list_are_in_no_part(files: MadeUp) -> None:
    data = ready(classes=[1, 2], held_out_classes=[3, 9])
    assert data.num_train + data.num_val == 24
    assert data.num_test == 6
    assert [len(data.held_out_dataloader(split).labels) for split in ("val", "test")] == [24, 6]


def test_nothing_changes_where_nothing_is_held_out(files: MadeUp) -> None:
    data, spelled = ready(), ready(classes=range(10), held_out_classes=[])
    assert data.state_dict() == spelled.state_dict()
    assert data.held_out_class_names == []
    with pytest.raises(RuntimeError, match="no class is held out"):
        data.held_out_dataloader("test")
    part = LabelledImages(torch.zeros(3, 1, 2, 2), torch.tensor([0, 2, 1]))
    assert take_classes(part, [0, 1, 2]) is part


OTHERS = [{}, {"held_out_classes": [7, 9]}, {"classes": [0, 1, 2], "held_out_classes": [8, 9]}]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_a_run_goes_on_with_its_own_classes_only(files: MadeUp, tmp_path: Path, other: dict[str, Any]) -> None:
    state = ready(held_out_classes=[8, 9]).state_dict()
    data = MNISTDataModule(batch_size=32, **other)
    data.prepare_data()
    data.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    data.trainer.state.fn = "fit"  # type: ignore[assignment]
    data.setup("fit")
    with pytest.raises(DataError, match="classes: the checkpoint has"):
        data.load_state_dict(state)


@pytest.mark.parametrize(("wanted", "count"), [(0.2, 4), (0.5, 10), (3, 3), (18, 18)])
def test_a_share_or_a_number_of_classes_is_drawn_by_the_seed(wanted: float, count: int) -> None:
    names = [f"c{number}" for number in range(20)]
    found = split_classes(names, None, wanted, seed=1)
    assert len(found.held_out) == count
    assert sorted([*found.trained, *found.held_out]) == list(range(20))
    assert found == split_classes(names, None, wanted, seed=1)
    assert any(found != split_classes(names, None, wanted, seed=seed) for seed in range(2, 5))
    some = split_classes(names, names[:10], 0.4)
    assert sorted([*some.trained, *some.held_out]) == list(range(10))


@pytest.mark.parametrize("wanted", [0.0, 1.0, 1.5, -0.1, 1, 0, 19, True, 0.01, float("nan")])
def test_a_share_that_leaves_too_few_classes_is_refused(wanted: float) -> None:
    with pytest.raises(ValueError, match=r"held_out_classes: got .*2 to 18 of the 20 classes"):
        split_classes([f"c{number}" for number in range(20)], None, wanted)
