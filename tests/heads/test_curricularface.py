"""CurricularFace's running average."""

import pytest
import reference
import torch
from torch import Tensor

from arcface_pl.heads import (
    HEADS,
    CurricularFaceHead,
    MarginHead,
)

margin_heads = pytest.mark.parametrize("name", [name for name, head in HEADS.items() if issubclass(head, MarginHead)])


def batch(size: int = 12, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return 10 * torch.randn(size, 8, generator=generator), torch.arange(size) % classes


def test_curricular_t_follows_the_target_cosine_and_is_used_at_once() -> None:
    embeddings, labels = batch()
    head = CurricularFaceHead(8, 5, momentum=0.5)
    head.t.fill_(0.8)
    cosine = reference.cosines(embeddings, head.weight)
    t = 0.4 + 0.5 * reference.target_theta(cosine, labels).cos().mean().item()
    got = head.loss(embeddings, labels, reduction="none").double()
    assert head.t.item() == pytest.approx(t, rel=1e-6)
    cosine, psi = reference.curricularface(cosine, labels, 0.5, t)
    torch.testing.assert_close(got, reference.softmax_loss(cosine, labels, psi, 64.0), rtol=1e-5, atol=1e-5)
    head.eval().loss(embeddings, labels)
    assert head.t.item() == pytest.approx(t, rel=1e-6)


def test_the_average_moves_by_a_hundredth_as_in_the_paper() -> None:
    embeddings, labels = batch()
    head = CurricularFaceHead(8, 5)
    theta = reference.target_theta(reference.cosines(embeddings, head.weight), labels)
    head.loss(embeddings, labels)
    assert head.t.item() == pytest.approx(0.01 * theta.cos().mean().item(), rel=1e-5)


@pytest.mark.parametrize("classes", [4, 40_000])
def test_a_class_as_near_as_the_margin_is_not_a_hard_one(classes: int) -> None:
    """The paper re-weights above psi only; cosines of 1 and a margin of 0 make them equal to the bit."""
    head = CurricularFaceHead(4, classes, margin=0.0, scale=2.0).eval()
    head.t.fill_(0.5)
    head.weight.data = torch.eye(4)[torch.arange(classes).clamp(1, 3)]
    embeddings, labels = torch.eye(4)[1:2].repeat(5, 1), torch.zeros(5, dtype=torch.int64)
    cosine = (head.weight @ embeddings[0]).double()
    logits = 2.0 * cosine  # every class at 0 degrees ties with the target
    torch.testing.assert_close(head(embeddings, labels)[0].double(), logits)
    expected = logits.logsumexp(dim=0) - 2.0
    torch.testing.assert_close(head.loss(embeddings, labels).double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(head.score(embeddings, labels).loss[0].double(), expected, rtol=1e-5, atol=0)
