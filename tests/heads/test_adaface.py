"""AdaFace's running averages."""

import copy

import pytest
import reference
import torch
from torch import Tensor

from arcface_pl.heads import (
    HEADS,
    AdaFaceHead,
    MarginHead,
)

margin_heads = pytest.mark.parametrize("name", [name for name, head in HEADS.items() if issubclass(head, MarginHead)])


def batch(size: int = 12, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return 10 * torch.randn(size, 8, generator=generator), torch.arange(size) % classes


def test_adaface_follows_the_norms_in_training_only() -> None:
    embeddings, labels = batch()
    head = AdaFaceHead(8, 5, momentum=0.25)
    norms = embeddings.double().norm(dim=1)
    mean, std = torch.tensor(20.0).double(), torch.tensor(100.0).double()
    for call in (head.loss, head):
        call(embeddings, labels)
        mean, std = 0.75 * mean + 0.25 * norms.mean(), 0.75 * std + 0.25 * norms.std()
        torch.testing.assert_close(head.norm_mean.double(), mean, rtol=1e-6, atol=0)
        torch.testing.assert_close(head.norm_std.double(), std, rtol=1e-6, atol=0)
    head.eval()
    before = copy.deepcopy(head.state_dict())
    head.loss(embeddings, labels)
    head(embeddings)
    assert all(torch.equal(before[key], value) for key, value in head.state_dict().items())
    head.train()
    head(embeddings)
    assert all(torch.equal(before[key], value) for key, value in head.state_dict().items())


def test_adaface_uses_what_it_has_just_learnt() -> None:
    embeddings, labels = batch()
    head = AdaFaceHead(8, 5, momentum=1.0)
    got = head.loss(embeddings, labels, reduction="none").double()
    norms = embeddings.double().norm(dim=1)
    cosine = reference.cosines(embeddings, head.weight)
    theta = reference.target_theta(cosine, labels)
    psi = reference.adaface(theta, norms, norms.mean().item(), norms.std().item(), 0.4, 0.333)
    torch.testing.assert_close(got, reference.softmax_loss(cosine, labels, psi, 64.0), rtol=1e-5, atol=1e-5)


def test_adaface_takes_the_unbiased_deviation_of_the_smallest_batch() -> None:
    head = AdaFaceHead(8, 5, momentum=1.0)
    head.loss(torch.eye(8)[:2] * torch.tensor([[3.0], [7.0]]), torch.tensor([0, 1]))
    assert head.norm_mean.item() == pytest.approx(5)
    assert head.norm_std.item() == pytest.approx(8**0.5)


def test_adaface_takes_a_batch_of_one() -> None:
    head = AdaFaceHead(8, 5)
    head.loss(torch.full((1, 8), 3.0), torch.tensor([0]))
    assert head.norm_std == 100
    assert head.norm_mean.item() == pytest.approx(20 + 0.01 * (3 * 8**0.5 - 20))
