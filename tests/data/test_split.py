import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_pl.data.split import stratified_split


@settings(deadline=None, max_examples=100)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    fraction=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 5),
)
def test_two_disjoint_parts_with_the_same_share_of_every_class(labels: list[int], fraction: float, seed: int) -> None:
    tensor = torch.tensor(labels)
    first, second = stratified_split(tensor, fraction, seed)
    assert sorted(first.tolist() + second.tolist()) == list(range(len(labels)))
    assert first.tolist() == sorted(first.tolist())
    assert second.tolist() == sorted(second.tolist())
    assert len(second) == round(fraction * len(labels))
    for label in set(labels):
        taken = int((tensor[second] == label).sum())
        assert abs(taken - fraction * labels.count(label)) < 1


def test_the_seed_decides() -> None:
    labels = torch.arange(10).repeat(100)
    first = stratified_split(labels, 0.1, seed=1)[1]
    assert torch.equal(first, stratified_split(labels, 0.1, seed=1)[1])
    assert not torch.equal(first, stratified_split(labels, 0.1, seed=2)[1])


@pytest.mark.parametrize("seed", range(3))
def test_no_class_and_no_position_is_preferred(seed: int) -> None:
    """The mean position of what is taken is the middle, within four standard errors."""
    labels = torch.arange(10).repeat(1000)
    taken = stratified_split(labels, 0.1, seed)[1]
    assert torch.bincount(labels[taken]).tolist() == [100] * 10
    assert abs(taken.double().mean() - 4999.5) < 4 * 10_000 / 12**0.5 / 1000**0.5
