"""Each head's loss, logits and gradients against its paper's equations."""

import inspect
import math
from collections.abc import Callable

import pytest
import reference
import torch
import torch.nn.functional as F
from torch import Tensor

from arcface_pl import heads
from arcface_pl.heads import Head

Expected = Callable[[Head, Tensor, Tensor], Tensor]


def batch(size: int = 24, dim: int = 8, classes: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(size, dim, generator=generator, dtype=torch.float64)
    return (embeddings * torch.linspace(0.1, 60, size).double()[:, None]).requires_grad_(), torch.arange(size) % classes


def margin_head(psi: Callable[[Tensor], Tensor]) -> Expected:
    def losses(head: Head, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosine = reference.cosines(embeddings, head.weight, head.sub_centers)
        target = psi(reference.target_theta(cosine, labels))
        return reference.softmax_loss(cosine, labels, target, head.scale_value, head.label_smoothing)

    return losses


def adaface(head: Head, embeddings: Tensor, labels: Tensor) -> Tensor:
    norms = embeddings.detach().norm(dim=1)
    psi = margin_head(lambda theta: reference.adaface(theta, norms, 20.0, 100.0, head.margin, head.h))
    return psi(head, embeddings, labels)


def magface(head: Head, embeddings: Tensor, labels: Tensor) -> Tensor:
    norms = embeddings.norm(dim=1)
    margin = reference.magface_margin(norms, head.min_norm, head.max_norm, head.min_margin, head.max_margin)
    losses = margin_head(lambda theta: reference.arcface(theta, margin))(head, embeddings, labels)
    return losses + head.norm_weight * reference.magface_regulariser(norms, head.min_norm, head.max_norm)


def curricularface(head: Head, embeddings: Tensor, labels: Tensor) -> Tensor:
    cosine = reference.cosines(embeddings, head.weight, head.sub_centers)
    cosine, psi = reference.curricularface(cosine, labels, head.margin, 0.25)
    return reference.softmax_loss(cosine, labels, psi, head.scale_value, head.label_smoothing)


def linear(head: Head, embeddings: Tensor, labels: Tensor) -> Tensor:
    logits = embeddings @ head.weight.double().T + head.bias.double()
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=head.label_smoothing)


CASES: list[tuple[str, dict, Expected]] = [
    ("ArcFaceHead", {}, margin_head(lambda theta: reference.arcface(theta, 0.5))),
    ("ArcFaceHead", {"margin": 1.2, "scale": 64}, margin_head(lambda theta: reference.arcface(theta, 1.2))),
    ("ArcFaceHead", {"extension": "none"}, margin_head(lambda theta: (theta + 0.5).cos())),
    ("CosFaceHead", {}, margin_head(lambda theta: theta.cos() - 0.35)),
    ("SphereFaceHead", {}, margin_head(lambda theta: reference.fall_on(1.35 * theta))),
    ("SphereFaceHead", {"margin": 4, "scale": 10}, margin_head(lambda theta: reference.fall_on(4 * theta))),
    ("CombinedMarginHead", {}, margin_head(lambda theta: reference.fall_on(theta + 0.3) - 0.2)),
    (
        "CombinedMarginHead",
        {"m1": 0.9, "m2": 0.4, "m3": 0.15},
        margin_head(lambda theta: reference.fall_on(0.9 * theta + 0.4) - 0.15),
    ),
    (
        "CombinedMarginHead",
        {"m1": 2.5, "m2": 1.0, "m3": 0.5, "scale": 8.0},
        margin_head(lambda theta: reference.fall_on(2.5 * theta + 1) - 0.5),
    ),
    ("AdaFaceHead", {}, adaface),
    ("AdaFaceHead", {"h": 3.0, "margin": 0.6}, adaface),
    ("MagFaceHead", {}, magface),
    ("ElasticFaceHead", {}, margin_head(lambda theta: reference.arcface(theta, 0.5))),
    ("ElasticFaceHead", {"variant": "cos", "margin": 0.35}, margin_head(lambda theta: theta.cos() - 0.35)),
    ("CurricularFaceHead", {}, curricularface),
    ("CurricularFaceHead", {"scale": 20.0}, curricularface),
    ("NormalizedSoftmaxHead", {}, margin_head(torch.cos)),
    ("LinearHead", {}, linear),
]


def build(name: str, kwargs: dict) -> Head:
    torch.manual_seed(0)
    head = heads.HEADS[name](8, 7, **kwargs).eval()
    if name == "CurricularFaceHead":
        head.t.fill_(0.25)
    if name == "LinearHead":
        torch.nn.init.normal_(head.bias)
    return head


WITH_OPTIONS = [
    pytest.param(name, kwargs | option, expected, id=f"{name}-{kwargs | option}")
    for name, kwargs, expected in CASES
    for option in ({}, {"sub_centers": 3}, {"label_smoothing": 0.2}, {"scale": "adacos"})
    if option.keys() <= inspect.signature(heads.HEADS[name]).parameters.keys()
]


@pytest.mark.parametrize(("name", "kwargs", "expected"), WITH_OPTIONS)
def test_loss_logits_and_gradients_are_the_papers(name: str, kwargs: dict, expected: Expected) -> None:
    head = build(name, kwargs)
    embeddings, labels = batch()
    truth = expected(head, embeddings, labels)
    upstream = torch.linspace(0.5, 2, len(labels)).double()
    inputs = (embeddings, *head.parameters())
    of_truth = torch.autograd.grad(truth, inputs, upstream)

    logits = head(embeddings, labels)
    smoothing = head.label_smoothing
    dense = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    if name == "MagFaceHead":
        dense = dense + 35 * reference.magface_regulariser(embeddings.norm(dim=1), 10, 110)
    for got in (head.loss(embeddings, labels, reduction="none"), dense):
        torch.testing.assert_close(got, truth, rtol=1e-8, atol=1e-8)  # acos near 0 is the weaker one
        for mine, other in zip(torch.autograd.grad(got, inputs, upstream), of_truth, strict=True):
            # What the float32 centers receive is rounded to float32
            torch.testing.assert_close(mine, other, rtol=2e-6, atol=1e-7 * other.abs().max().item())


def test_adacos_scale_is_the_fixed_one() -> None:
    assert heads.CosFaceHead(2, 10, scale="adacos").scale_value == pytest.approx(math.sqrt(2) * math.log(9))
    for num_classes in (1, 2):
        with pytest.raises(
            ValueError, match=rf"^scale: got 'adacos'; expected a number where there are {num_classes} classes"
        ):
            heads.ArcFaceHead(2, num_classes, scale="adacos")


def test_ten_classes_at_the_default_sizes_equal_the_reference_in_float32() -> None:
    for name, kwargs, expected in CASES:
        head = build(name, kwargs)
        embeddings, labels = batch()
        embeddings = embeddings.detach().float()
        torch.testing.assert_close(
            head.loss(embeddings, labels, reduction="none").double(),
            expected(head, embeddings.double(), labels),
            rtol=2e-6,
            atol=2e-6,
        )
