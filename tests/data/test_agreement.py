from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from arcface_pl.data import DataError, LabelledImages
from arcface_pl.data.agreement import check_alike, check_batches_alike, fingerprint
from arcface_pl.data.parts import Parts


def test_alone_it_is_just_called() -> None:
    calls = []
    check_alike(lambda: calls.append("called") or "mnist")
    assert calls == ["called"]
    with pytest.raises(OSError, match="no disk"):
        check_alike(raise_no_disk)


def raise_no_disk() -> str:
    raise OSError("no disk")


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["mnist 1", "digits 2"], "process 0: mnist 1; process 1: digits 2"),
        (["mnist 1", "failed: no disk"], "process 1: failed: no disk"),
    ],
)
def test_another_process_with_something_else(monkeypatch: pytest.MonkeyPatch, others: list[str], message: str) -> None:
    def gather(outcomes: list[str], outcome: str) -> None:
        assert outcome == others[0]
        outcomes[:] = others

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(DataError, match=f"the processes do not have the same data. .*{message}"):
        check_alike(lambda: "mnist 1")


def test_the_fingerprint_notices_every_value_and_the_order() -> None:
    one, two = torch.arange(6, dtype=torch.uint8), torch.tensor([1, 2])
    changed = one.clone()
    changed[3] = 9
    prints = [fingerprint(parts) for parts in ([[one, two]], [[changed, two]], [[two, one]], [[one], [two + 1]])]
    assert len(set(prints)) == 4
    assert fingerprint([[one], [two]]) == prints[0]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_real_processes_all_stop_with_their_own_reason(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_of_three, args=(str(tmp_path),), nprocs=3)
    said = [(tmp_path / f"{rank}").read_text() for rank in range(3)]
    assert said[1] == "no disk"
    assert said[0] == said[2]
    assert "process 1: failed: no disk" in said[0]


def one_of_three(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3)
    check_alike(lambda: "mnist")
    try:
        check_alike(raise_no_disk if rank == 1 else lambda: "mnist")
    except (DataError, OSError) as error:
        (Path(folder) / f"{rank}").write_text(str(error))
    torch.distributed.destroy_process_group()


def test_damaged_text_of_an_augmentation_is_shown_as_it_is() -> None:
    saved = {"augmentation": "Augmentation(shift=1.2.3)"}
    with pytest.raises(
        DataError, match=r"data\.transform: the checkpoint has 'Augmentation\(shift=1\.2\.3\)', this run"
    ):
        check_batches_alike(saved, {"augmentation": "Augmentation(shift=2.0)"}, allow=False)


def other(saved: dict[str, Any], now: dict[str, Any], before: Any = None, present: Any = None) -> str:
    with pytest.raises(DataError) as caught:
        check_batches_alike(saved, now, allow=False, trained_on=before, present=present)
    return str(caught.value).removeprefix("the run cannot be resumed exactly. ").partition(". Restore")[0]


def state(digest: str, *counts: list[int], **others: Any) -> dict[str, Any]:
    images = dict(zip(("train", "val", "held_out_val"), counts, strict=False))
    return {"data": f"digits {digest}", "images": images, **others}


KNOWN: dict[str, Any] = {"kwargs": {"val_fraction": 0.1, "root": "a", "num_workers": 2}, "class_names": ["x", "y"]}


@pytest.mark.parametrize(
    ("saved", "now", "known", "said"),
    [
        # A setting that chooses the images, with both values; not others, nor the numbers that follow from it
        (
            state("1", [9, 9], [1, 1]),
            state("2", [8, 8], [2, 2], normalization="3"),
            {**KNOWN, "kwargs": {"val_fraction": 0.2, "root": "a", "num_workers": 0}},
            "data.val_fraction: the checkpoint has 0.1, this run 0.2",
        ),
        (
            state("1", [9, 9]),
            state("2", [9, 9, 9]),
            {**KNOWN, "class_names": ["x", "z", "y"]},
            "classes that the other has not: the checkpoint has [], this run ['z']",
        ),
        # A file less moves others between the parts: the class's total tells
        (
            state("1", [9, 9], [1, 1]),
            state("2", [8, 8], [2, 1]),
            KNOWN,
            "images of class y: the checkpoint has 10, this run 9",
        ),
        (
            state("1", [9, 9], [1, 1]),
            state("2", [8, 9], [2, 1]),
            KNOWN,
            "train images of class x: the checkpoint has 9, this run 8; val images of class x: the checkpoint has 1, "
            "this run 2",
        ),
        (
            state("1", [9, 9], [1, 1], [4]),
            state("2", [9, 9], [1, 1], [5]),
            KNOWN,
            "held_out_val images: the checkpoint has 4, this run 5",
        ),
        (
            state("1", [9, 9]),
            state("2", [9, 9]),
            KNOWN,
            "data (as many images, with other content): the checkpoint has 'digits 1', this run 'digits 2'",
        ),
        (
            state("1", [9, 9], seed=0),
            state("2", [9, 9], seed=1),
            KNOWN,
            "seed_everything: the checkpoint has 0, this run 1",
        ),
        # Of a checkpoint from before there were counts, and of a damaged one
        ({"data": "digits 1"}, state("2", [9, 9]), KNOWN, "data: the checkpoint has 'digits 1', this run 'digits 2'"),
        (
            {"data": "digits 1", "images": {"train": ["a", 2], "val": 5}},
            state("2", [9, 9], [1, 1]),
            KNOWN,
            "data: the checkpoint has 'digits 1', this run 'digits 2'",
        ),
        ({"data": 5, "images": 5}, state("2", [9, 9]), KNOWN, "data: the checkpoint has 5, this run 'digits 2'"),
    ],
)
def test_what_is_other_about_the_data(saved: dict[str, Any], now: dict[str, Any], known: Any, said: str) -> None:
    assert other(saved, now, KNOWN, known) == said


def test_counts_of_many_classes_are_totals() -> None:
    images = torch.zeros(300, 1, 2, 2, dtype=torch.uint8)
    part = LabelledImages(images, torch.arange(300) % 150)
    few = LabelledImages(images[:4], torch.tensor([0, 0, 1, 0]))
    assert Parts("", part, few, few, few, few).counts(150)["train"] == [300]
    counts = Parts("", few, few, few, few, few).counts(3)
    assert counts["val"] == [3, 1, 0]
    assert counts["held_out_val"] == [4]
