"""Gathering rows of several processes; between real processes in test_metric_classes.py."""

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from arcface_pl.metrics.states import gather_rows


def test_rows_of_uneven_numbers_are_gathered_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = torch.arange(6, dtype=torch.int64).view(2, 3)
    # torchmetrics has an empty float32 vector where a process saw no batch
    everyone = [mine, torch.empty(0), 10 + torch.arange(12, dtype=torch.int64).view(4, 3)]

    def all_gather_object(shapes: list[object], own: object, group: object) -> None:
        shapes[:] = [(tuple(rows.shape), rows.dtype) for rows in everyone]
        assert own == shapes[0]

    def all_gather(gathered: list[Tensor], padded: Tensor, group: object) -> None:
        assert padded.shape == (4, 3)
        assert padded.dtype == torch.int64
        assert torch.equal(padded[:2], mine)
        for place, rows in zip(gathered, everyone, strict=True):
            place.zero_()
            place[: len(rows)] = rows.view(-1, 3)

    monkeypatch.setattr(dist, "get_world_size", lambda group: 3)
    monkeypatch.setattr(dist, "all_gather_object", all_gather_object)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    first, second, third = gather_rows(mine)
    assert torch.equal(first, mine)
    assert second.shape == (0, 3)
    assert torch.equal(third, everyone[2])


def test_rows_of_different_dtypes_are_gathered_in_one_that_holds_both(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, more = torch.full((1, 2), 0.5, dtype=torch.float32), torch.full((3, 2), 0.1, dtype=torch.float64)

    def all_gather_object(shapes: list[object], own: object, group: object) -> None:
        shapes[:] = [(tuple(rows.shape), rows.dtype) for rows in (mine, more)]

    def all_gather(gathered: list[Tensor], padded: Tensor, group: object) -> None:
        assert padded.dtype == torch.float64
        gathered[0].copy_(padded)
        gathered[1].copy_(more)

    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    monkeypatch.setattr(dist, "all_gather_object", all_gather_object)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    first, second = gather_rows(mine)
    assert torch.equal(first, mine.double())
    assert torch.equal(second, more)
