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
