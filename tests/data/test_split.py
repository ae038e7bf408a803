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


def by_search(labels: torch.Tensor, fraction: float, seed: int) -> torch.Tensor:
    """The second part as earlier releases drew it, searching all labels for each class."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.bincount(labels).double() * fraction
    taken = shares.long()
    missing = round(fraction * len(labels)) - int(taken.sum())
    taken[torch.argsort(shares - taken, descending=True, stable=True)[:missing]] += 1
    chosen = []
    for label, count in enumerate(taken.tolist()):
        members = (labels == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values


@pytest.mark.parametrize(("classes", "images"), [(10, 6000), (300, 1000), (500, 200), (3, 3)])
def test_the_draws_are_those_of_a_search_for_each_class(classes: int, images: int) -> None:
    labels = torch.randint(classes, (images,), generator=torch.Generator().manual_seed(classes))
    for fraction, seed in ((0.1, 0), (0.37, 1), (0.0, 2)):
        assert torch.equal(stratified_split(labels, fraction, seed)[1], by_search(labels, fraction, seed))


def test_ten_thousand_classes_are_sorted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing all labels with each class would take classes x images operations: it is never done."""
    labels = torch.arange(10_000).repeat(3)
    monkeypatch.setattr(torch.Tensor, "__eq__", None)
    assert len(stratified_split(labels, 0.5, seed=0)[1]) == 15_000


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
