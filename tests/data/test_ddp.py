import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two processes that trained together, each with what it saw."""
    folder = tmp_path_factory.mktemp("ddp")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    child = Path(__file__).with_name("ddp_child.py")
    subprocess.run([sys.executable, str(child), str(folder)], env=environment, check=True, timeout=200)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_training_shares_are_disjoint_and_equally_long(ranks: list[dict[str, Any]]) -> None:
    sizes = [[(epoch, step, len(labels)) for epoch, step, _, labels in rank["whole"]["train"]] for rank in ranks]
    assert sizes[0] == sizes[1]
    assert sum(size for epoch, _, size in sizes[0] if epoch == 0) == 1294 // 2
    one, other = (
        {image.numpy().tobytes() for _, _, images, _ in rank["whole"]["train"] for image in images} for rank in ranks
    )
    assert not one & other


def test_every_test_image_is_counted_once(ranks: list[dict[str, Any]]) -> None:
    batches = [rank["whole"]["test"] for rank in ranks]
    assert len(batches[0]) == len(batches[1])
    assert [sum(len(labels) for _, labels in rank) for rank in batches] == [180, 179]
    together = torch.empty(359, dtype=torch.int64)
    for rank, part in enumerate(batches):
        together[rank::2] = torch.cat([labels for _, labels in part])
    assert torch.equal(together, ranks[0]["test_labels"])


def test_both_resume_with_exactly_the_next_batch(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        expected = rank["whole"]["train"][7:]
        assert len(rank["resumed"]) == len(expected) == 5
        for one, other in zip(rank["resumed"], expected, strict=True):
            assert one[:2] == other[:2]
            assert torch.equal(one[2], other[2])
            assert torch.equal(one[3], other[3])
        assert torch.equal(*rank["weights"])
