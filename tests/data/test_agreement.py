from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from arcface_pl.data import DataError
from arcface_pl.data.agreement import check_alike, check_batches_alike, fingerprint


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
