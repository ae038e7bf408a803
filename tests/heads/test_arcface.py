"""ArcFace against two other implementations, and why its psi goes on falling."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from arcface_pl.heads import ArcFaceHead, CosFaceHead


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(64, 32, generator=generator).requires_grad_(), torch.randint(10, (64,), generator=generator)


def source_document(
    embeddings: Tensor, weight: Tensor, labels: Tensor, scale: float, margin: float
) -> tuple[Tensor, Tensor]:
    """The program this project starts from: acos inside a clamp, plus the margin, cosine again."""
    cosine = F.normalize(embeddings, dim=1) @ F.normalize(weight, dim=1).T
    target = (cosine.clamp(-1 + 1e-7, 1 - 1e-7).acos() + margin).cos()
    one_hot = F.one_hot(labels, len(weight)).to(cosine.dtype)
    logits = scale * (one_hot * target + (1 - one_hot) * cosine)
    return F.cross_entropy(logits, labels), logits


def test_without_the_extension_it_is_the_source_documents_loss() -> None:
    head = ArcFaceHead(32, 10, extension="none")
    embeddings, labels = batch()
    expected, logits = source_document(embeddings, head.weight, labels, 30.0, 0.5)
    torch.testing.assert_close(head.loss(embeddings, labels), expected)
    torch.testing.assert_close(head(embeddings, labels), logits, rtol=0, atol=3e-5)
    mine = torch.autograd.grad(head.loss(embeddings, labels), (embeddings, head.weight))
    for a, b in zip(mine, torch.autograd.grad(expected, (embeddings, head.weight)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_pytorch_metric_learning_agrees_where_the_angle_stays_below_pi() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    embeddings, labels = batch()
    for head, other in (
        (ArcFaceHead(32, 10, scale=64.0), losses.ArcFaceLoss(10, 32, margin=math.degrees(0.5), scale=64)),
        (CosFaceHead(32, 10), losses.CosFaceLoss(10, 32, margin=0.35, scale=64)),
    ):
        other.W.data = head.weight.detach().T.clone()
        got, expected = head.loss(embeddings, labels), other(embeddings, labels)
        torch.testing.assert_close(got, expected)
        mine, theirs = torch.autograd.grad(got, embeddings), torch.autograd.grad(expected, embeddings)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def opposite(head: ArcFaceHead) -> float:
    """The loss of an embedding opposite to every class, whose centers all coincide."""
    head.weight.data = torch.tensor([1.0, 0.0]).repeat(10, 1)
    return head.loss(torch.tensor([[-1.0, 0.0]]), torch.tensor([0])).item()


def test_opposite_to_every_class_is_no_minimum() -> None:
    leak = math.log1p(9 * math.exp(-30 * (1 - math.cos(0.5))))
    assert opposite(ArcFaceHead(2, 10, extension="none")) == pytest.approx(leak, rel=1e-6)
    assert leak < 0.22
    assert opposite(ArcFaceHead(2, 10)) > math.log(10)


@pytest.mark.parametrize("extension", ["monotone", "none"])
def test_gradient_pulls_towards_the_class_past_pi_minus_m(extension: str) -> None:
    head = ArcFaceHead(2, 2, extension=extension)
    head.weight.data = torch.tensor([[1.0, 0.0], [1.0, 0.01]])
    theta = math.pi - 0.2
    embedding = torch.tensor([[math.cos(theta), math.sin(theta)]], requires_grad=True)
    head.loss(embedding, torch.tensor([0])).backward()
    growing_angle = torch.tensor([-math.sin(theta), math.cos(theta)])
    descent = -embedding.grad[0] @ growing_angle
    assert (descent < 0) if extension == "monotone" else (descent > 0)
