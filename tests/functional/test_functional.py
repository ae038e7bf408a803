"""The maths: psi, angles and the loss, against formulas written out anew in float64 and in arbitrary precision."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from exact import arcface, exact_vector, gradients, loss, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from arcface_pl.functional import (
    adaface_psi,
    arcface_psi,
    combined_psi,
    cosface_psi,
    cosine_similarity_matrix,
    linear_softmax_loss,
    margin_softmax_loss,
    non_target_logsumexp,
    sphereface_psi,
)
from arcface_pl.functional._chunks import CPU_CHUNK_ROWS, Hard

ANGLES = (
    1e-4,
    1e-3,
    0.02,
    0.3,
    1.0,
    math.pi / 2,
    2.2,
    math.pi - 0.505,
    math.pi - 0.495,
    math.pi - 1e-3,
    math.pi - 1e-4,
)
WHOLE, CHUNKED = None, 2


def arc(margin: float, extension: str = "monotone") -> Callable[[Tensor, Tensor], Tensor]:
    return lambda cosine, sine: arcface_psi(cosine, margin, sine=sine, extension=extension)


def at_angle(theta: float, classes: int = 3, dim: int = 3, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """One embedding at this angle from the center of class 0, and centers of uneven lengths."""
    generator = torch.Generator().manual_seed(1)
    axes, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    weight = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    weight[0] = 1.7 * axes[0]
    embedding = 3.3 * (math.cos(theta) * axes[0] + math.sin(theta) * axes[1])
    return embedding[None].to(dtype).requires_grad_(), weight.float().requires_grad_()


def batch(
    size: int = 8,
    classes: int = 10,
    dim: int = 16,
    sub_centers: int = 1,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = 3 * torch.randn(size, dim, generator=generator, dtype=torch.float64)
    weight = torch.randn(classes * sub_centers, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (size,), generator=generator)
    return embeddings.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), labels


# psi ------------------------------------------------------------------------------------------------------------------

THETA = torch.linspace(0, math.pi, 2001, dtype=torch.float64)


def on_grid(psi: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    return psi(THETA.cos(), THETA.sin())


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.0, 3.0])
def test_arcface_psi_is_the_cosine_of_the_sum_and_its_mirror_beyond(margin: float) -> None:
    shifted = (THETA + margin).cos()
    expected = torch.where(THETA + margin <= math.pi, shifted, -2 - shifted)
    torch.testing.assert_close(on_grid(arc(margin)), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(on_grid(arc(margin, "none")), shifted, rtol=0, atol=1e-13)
    assert math.isclose(on_grid(arc(margin))[-1].item(), math.cos(margin) - 2 if margin else -1, abs_tol=1e-12)


def test_cosface_psi_subtracts() -> None:
    torch.testing.assert_close(cosface_psi(THETA.cos(), 0.35), THETA.cos() - 0.35)


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_sphereface_psi_is_the_papers_for_whole_factors(margin: int) -> None:
    expected = torch.empty_like(THETA)
    for k in range(margin):
        inside = (math.pi * k / margin <= THETA) & (math.pi * (k + 1) / margin >= THETA)
        expected[inside] = (-1) ** k * (margin * THETA[inside]).cos() - 2 * k
    got = on_grid(lambda cosine, sine: sphereface_psi(cosine, float(margin), sine=sine))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_combined_psi_holds_the_other_three() -> None:
    cosine, sine = THETA.cos(), THETA.sin()
    close = {"rtol": 0, "atol": 1e-13}
    torch.testing.assert_close(
        combined_psi(cosine, 1.0, 0.5, 0.0, sine=sine), arcface_psi(cosine, 0.5, sine=sine), **close
    )
    torch.testing.assert_close(combined_psi(cosine, 1.0, 0.0, 0.3, sine=sine), cosface_psi(cosine, 0.3), **close)
    torch.testing.assert_close(
        combined_psi(cosine, 2.5, 0.0, 0.0, sine=sine), sphereface_psi(cosine, 2.5, sine=sine), **close
    )
    low = math.pi >= THETA * 0.9 + 0.4
    torch.testing.assert_close(
        combined_psi(cosine, 0.9, 0.4, 0.15, sine=sine)[low], ((THETA * 0.9 + 0.4).cos() - 0.15)[low], **close
    )


def test_adaface_psi_is_the_papers_wherever_the_angle_needs_no_bound() -> None:
    for quality in (-1.0, -0.3, 0.0, 0.7, 1.0):
        z = torch.full_like(THETA, quality)
        angle = THETA - 0.4 * quality
        inside = (angle >= 0) & (angle <= math.pi)
        expected = angle.cos() - (0.4 + 0.4 * quality)
        got = adaface_psi(THETA.cos(), z, 0.4, sine=THETA.sin())
        torch.testing.assert_close(got[inside], expected[inside], rtol=0, atol=1e-13)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(m1=st.floats(0.1, 6), m2=st.floats(0, 3.1), m3=st.floats(0, 1.9), quality=st.floats(-1, 1))
def test_every_psi_falls_all_the_way_without_a_jump(m1: float, m2: float, m3: float, quality: float) -> None:
    z = torch.full_like(THETA, quality)
    for steepest, psi in (
        (1.0, arc(m2)),
        (1.0, lambda cosine, sine: cosface_psi(cosine, m3)),
        (1 + m1, lambda cosine, sine: sphereface_psi(cosine, 1 + m1, sine=sine)),
        (m1, lambda cosine, sine: combined_psi(cosine, m1, m2, m3, sine=sine)),
        (1.0, lambda cosine, sine: adaface_psi(cosine, z, m2, sine=sine)),
    ):
        steps = on_grid(psi).diff()
        assert steps.max() <= 1e-12
        assert -steps.min() <= steepest * THETA[1] + 1e-12


@pytest.mark.parametrize("value", [1.0, -1.0, 1 - 2**-24, 1 + 2**-23, -1 - 2**-23])
def test_psi_without_the_sine_has_a_finite_gradient_at_the_ends(value: float) -> None:
    for psi in (arcface_psi, combined_psi, sphereface_psi, lambda cosine: adaface_psi(cosine, torch.zeros(1))):
        cosine = torch.tensor([value], requires_grad=True)
        psi(cosine).sum().backward()
        assert torch.isfinite(cosine.grad).all()


# Cosines --------------------------------------------------------------------------------------------------------------


def test_cosine_similarity_matrix_is_the_cosine_within_its_bounds() -> None:
    embeddings, weight, _ = batch(64, 50, dtype=torch.float32)
    expected = F.cosine_similarity(embeddings.double()[:, None], weight.double()[None], dim=2)
    cosine = cosine_similarity_matrix(embeddings, weight)
    assert cosine.dtype == torch.float32
    torch.testing.assert_close(cosine.double(), expected, rtol=0, atol=2e-7)
    aligned = cosine_similarity_matrix(weight, torch.cat([weight * 7, -weight / 7]))
    assert aligned.max() <= 1
    assert aligned.min() >= -1


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e20, 3e38])
def test_cosine_similarity_matrix_knows_the_direction_of_any_embedding(size: float) -> None:
    weight = torch.eye(2)
    cosine = cosine_similarity_matrix(torch.tensor([[size, 0.0], [size / 2, -size / 2]]), weight)
    torch.testing.assert_close(cosine, torch.tensor([[1.0, 0.0], [0.5**0.5, -(0.5**0.5)]]))


def test_cosine_similarity_matrix_stays_in_float32_under_autocast() -> None:
    embeddings, weight, _ = batch(dtype=torch.float32)
    expected = cosine_similarity_matrix(embeddings, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cosine_similarity_matrix(embeddings, weight), expected)
    assert cosine_similarity_matrix(embeddings.bfloat16(), weight).dtype == torch.float32


def test_cosine_similarity_matrix_has_a_shape_on_the_meta_device() -> None:
    assert cosine_similarity_matrix(torch.zeros(3, 4, device="meta"), torch.zeros(5, 4, device="meta")).shape == (3, 5)


# Exactness ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [WHOLE, CHUNKED])
@pytest.mark.parametrize("scale", [1.0, 30.0, 64.0])
def test_loss_and_gradients_are_exact_at_every_angle(scale: float, chunk_size: int | None) -> None:
    tolerance = max(2e-6, 2e-7 * scale)
    for theta, margin in itertools.product(ANGLES, (0.0, 0.2, 0.5, 1.0)):
        embedding, weight = at_angle(theta)
        got = margin_softmax_loss(embedding, weight, torch.tensor([0]), arc(margin), scale=scale, chunk_size=chunk_size)
        of_embedding, of_weight = torch.autograd.grad(got, (embedding, weight))
        x, rows = exact_vector(embedding[0]), [exact_vector(row) for row in weight]
        arguments = (x, rows, 0, scale, lambda angle, margin=margin: arcface(angle, margin))
        assert relative_error(got.detach()[None], [loss(*arguments)]) <= tolerance, (theta, margin)
        truth_embedding, truth_weight = gradients(*arguments)
        assert relative_error(of_embedding, truth_embedding) <= tolerance, (theta, margin)
        assert relative_error(of_weight, truth_weight) <= tolerance, (theta, margin)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
@pytest.mark.parametrize("chunk_size", [WHOLE, CHUNKED])
def test_half_precision_embeddings_lose_nothing_but_their_own_rounding(
    dtype: torch.dtype, rounding: float, chunk_size: int | None
) -> None:
    for theta in ANGLES:
        embedding, weight = at_angle(theta, dtype=dtype)
        got = margin_softmax_loss(embedding, weight, torch.tensor([0]), arc(0.5), scale=30.0, chunk_size=chunk_size)
        of_embedding, of_weight = torch.autograd.grad(got, (embedding, weight))
        x, rows = exact_vector(embedding[0]), [exact_vector(row) for row in weight]
        arguments = (x, rows, 0, 30.0, lambda angle: arcface(angle, 0.5))
        truth_embedding, truth_weight = gradients(*arguments)
        assert got.dtype == torch.float32
        assert relative_error(got.detach()[None], [loss(*arguments)]) <= 6e-6
        assert of_embedding.dtype == dtype
        if max(map(abs, truth_embedding)) > torch.finfo(dtype).tiny:  # float16 ends at 6e-5
            assert relative_error(of_embedding, truth_embedding) <= rounding
        assert relative_error(of_weight, truth_weight) <= 6e-6


@settings(deadline=None, max_examples=100, derandomize=True)
@given(theta=st.floats(1e-4, math.pi - 1e-4), margin=st.floats(0, 3.1), scale=st.floats(0.1, 300))
def test_two_classes_in_the_plane_have_a_closed_form(theta: float, margin: float, scale: float) -> None:
    embedding = torch.tensor([[math.cos(theta), math.sin(theta)]], dtype=torch.float64, requires_grad=True)
    weight = torch.eye(2, dtype=torch.float64)
    psi = math.cos(theta + margin) if theta + margin <= math.pi else -2 - math.cos(theta + margin)
    gap = scale * (math.sin(theta) - psi)
    expected = gap + math.log1p(math.exp(-gap)) if gap > 0 else math.log1p(math.exp(gap))
    for chunk_size in (WHOLE, 1):
        got = margin_softmax_loss(embedding, weight, torch.tensor([0]), arc(margin), scale=scale, chunk_size=chunk_size)
        assert math.isclose(got.item(), expected, rel_tol=1e-9, abs_tol=1e-300)
        (gradient,) = torch.autograd.grad(got, embedding)
        share = 1 / (1 + math.exp(-gap)) if gap > -700 else 0.0
        along = share * scale * (math.cos(theta) + abs(math.sin(theta + margin)))  # d loss / d theta
        tangent = torch.tensor([[-math.sin(theta), math.cos(theta)]], dtype=torch.float64)
        torch.testing.assert_close(gradient, along * tangent, rtol=1e-7, atol=1e-10 * scale * share)


@pytest.mark.parametrize("chunk_size", [WHOLE, CHUNKED])
@pytest.mark.parametrize(
    "embedding",
    [
        [1.0, 0.0, 0.0],
        [-1.0, 0.0, 0.0],
        [1.0, 2**-24, 0.0],
        [-1.0, 1e-30, 0.0],
        [0.6, 0.8, 0.0],
        [1e-30, 1e-30, -1e-30],
        [3e38, -3e38, 3e38],
        [0.0, 0.0, 0.0],
        [1e-13, 0.0, 1e-13],
    ],
)
@pytest.mark.parametrize("scale", [1.0, 64.0, 1000.0])
def test_extremes_are_finite(embedding: list[float], scale: float, chunk_size: int | None) -> None:
    x = torch.tensor([embedding], requires_grad=True)
    weight = torch.tensor([[0.6, 0.8, 0.0], [2.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    for label in range(4):
        got = margin_softmax_loss(x, weight, torch.tensor([label]), arc(0.5), scale=scale, chunk_size=chunk_size)
        of_x, of_weight = torch.autograd.grad(got, (x, weight))
        assert all(torch.isfinite(value).all() for value in (got, of_x, of_weight))
        if x.detach().double().norm() < 1e-12:
            assert torch.equal(of_x, torch.zeros_like(of_x))
        assert torch.equal(of_weight[3], torch.zeros(3))


@pytest.mark.parametrize("chunk_size", [WHOLE, CHUNKED])
def test_length_does_not_matter(chunk_size: int | None) -> None:
    embeddings, weight, labels = batch(dtype=torch.float32)
    arguments = {"scale": 30.0, "chunk_size": chunk_size, "reduction": "none"}
    expected = margin_softmax_loss(embeddings, weight, labels, arc(0.5), **arguments)
    for size in (1e-30, 1e30):
        torch.testing.assert_close(
            margin_softmax_loss(embeddings * size, weight, labels, arc(0.5), **arguments), expected
        )


@pytest.mark.parametrize("chunk_size", [WHOLE, CHUNKED])
def test_one_class_has_no_loss_and_no_gradient(chunk_size: int | None) -> None:
    embeddings, weight, _ = batch(classes=1)
    labels = torch.zeros(8, dtype=torch.uint8)
    got = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, chunk_size=chunk_size)
    assert got.item() == 0
    assert all(torch.equal(value, torch.zeros_like(value)) for value in torch.autograd.grad(got, (embeddings, weight)))
    assert torch.equal(
        non_target_logsumexp(embeddings, weight, labels, scale=1.0), torch.full((8,), -math.inf).double()
    )


# The two paths --------------------------------------------------------------------------------------------------------

SETTINGS = [
    pytest.param(
        scale, sub_centers, smoothing, hard, id=f"s{scale:g}-K{sub_centers}-ls{smoothing}-{'hard' if hard else ''}"
    )
    for scale, sub_centers, smoothing, hard in itertools.product((8.0, 100.0), (1, 3), (0.0, 0.1), (False, True))
]


def dense_losses(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: float,
    sub_centers: int,
    smoothing: float,
    hard: Hard | None,
) -> Tensor:
    """All logits at once, by acos, and torch's own cross-entropy."""
    cosine = F.normalize(embeddings) @ F.normalize(weight).T
    cosine = cosine.view(len(labels), -1, sub_centers).amax(dim=2)
    theta = cosine.gather(1, labels[:, None]).acos() + 0.5
    own = torch.where(theta <= math.pi, theta.cos(), -2 - theta.cos())
    if hard is not None:
        cosine = torch.where(cosine > hard.threshold[:, None], cosine * (hard.t + cosine), cosine)
    logits = scale * cosine.scatter(1, labels[:, None], own)
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


@pytest.mark.parametrize(("scale", "sub_centers", "smoothing", "is_hard"), SETTINGS)
def test_both_paths_equal_the_dense_formula(scale: float, sub_centers: int, smoothing: float, is_hard: bool) -> None:
    embeddings, weight, labels = batch(sub_centers=sub_centers)
    hard = Hard(torch.full((8,), 0.1).double(), torch.tensor(0.3).double()) if is_hard else None
    expected = dense_losses(embeddings, weight, labels, scale, sub_centers, smoothing, hard)
    upstream = torch.linspace(0.5, 2, 8, dtype=torch.float64)
    expected_gradients = torch.autograd.grad(expected, (embeddings, weight), upstream)
    for chunk_size in (WHOLE, 1, 3, 10, 1000):
        got = margin_softmax_loss(
            embeddings,
            weight,
            labels,
            arc(0.5),
            scale=scale,
            sub_centers=sub_centers,
            label_smoothing=smoothing,
            hard=hard,
            reduction="none",
            chunk_size=chunk_size,
        )
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)
        for mine, other in zip(
            torch.autograd.grad(got, (embeddings, weight), upstream), expected_gradients, strict=True
        ):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("scale", "sub_centers", "smoothing", "is_hard"), SETTINGS)
@pytest.mark.parametrize("chunk_size", [WHOLE, 2])
def test_gradcheck(scale: float, sub_centers: int, smoothing: float, is_hard: bool, chunk_size: int | None) -> None:
    embeddings, weight, labels = batch(3, 4, 3, sub_centers)
    hard = Hard(torch.full((3,), 0.1).double(), torch.tensor(0.3).double()) if is_hard else None

    def losses(x: Tensor, w: Tensor) -> Tensor:
        return margin_softmax_loss(
            x,
            w,
            labels,
            arc(0.5),
            scale=scale,
            sub_centers=sub_centers,
            label_smoothing=smoothing,
            hard=hard,
            reduction="none",
            chunk_size=chunk_size,
        )

    assert torch.autograd.gradcheck(losses, (embeddings, weight))


@pytest.mark.parametrize("chunk_size", [WHOLE, 2])
def test_a_second_derivative_is_refused(chunk_size: int | None) -> None:
    embeddings, weight, labels = batch()
    got = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, chunk_size=chunk_size)
    (gradient,) = torch.autograd.grad(got, embeddings, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("scale", [1.0, 30.0, 64.0, 200.0])
def test_many_classes_in_float32_are_as_exact_as_few(scale: float) -> None:
    embeddings, weight, labels = batch(32, 5000, 64, dtype=torch.float32)
    wide = [value.detach().double().requires_grad_() for value in (embeddings, weight)]
    expected = dense_losses(*wide, labels, scale, 1, 0.0, None)
    got = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=scale, reduction="none")
    tolerance = max(2e-6, 2e-7 * scale)
    assert ((got - expected) / expected).abs().max() <= tolerance
    upstream = torch.ones(32)
    gradients_got = torch.autograd.grad(got, (embeddings, weight), upstream)
    gradients_expected = torch.autograd.grad(expected, wide, upstream.double())
    (mine, my_weight), (other, other_weight) = gradients_got, gradients_expected
    assert ((mine - other).norm(dim=1) / other.norm(dim=1)).max() <= tolerance
    assert (my_weight - other_weight).norm() / other_weight.norm() <= tolerance


@pytest.mark.parametrize("scale", [0.5, 80.0])
def test_a_hundred_chunks_add_up_without_loss(scale: float) -> None:
    embeddings, weight, labels = batch(4, 100_000, 8, dtype=torch.float32)
    cosine = F.normalize(embeddings.double()) @ F.normalize(weight.double()).T
    expected = (scale * cosine).scatter(1, labels[:, None], -math.inf).logsumexp(dim=1)
    got = non_target_logsumexp(embeddings, weight, labels, scale=scale)
    assert ((got - expected) / expected).abs().max() < 1e-7


def test_only_what_needs_a_gradient_gets_one() -> None:
    embeddings, weight, labels = batch()
    for chunk_size in (WHOLE, 3):
        both = torch.autograd.grad(
            margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, chunk_size=chunk_size),
            (embeddings, weight),
        )
        for place, (x, w) in enumerate(((embeddings, weight.detach()), (embeddings.detach(), weight))):
            got = margin_softmax_loss(x, w, labels, arc(0.5), scale=30.0, chunk_size=chunk_size)
            torch.testing.assert_close(torch.autograd.grad(got, (embeddings, weight)[place])[0], both[place])
        assert not margin_softmax_loss(
            embeddings.detach(), weight.detach(), labels, arc(0.5), scale=30.0, chunk_size=chunk_size
        ).requires_grad


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return out


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_no_tensor_of_batch_times_classes_is_made(smoothing: float) -> None:
    embeddings, weight, labels = batch(128, 20_000, 8, dtype=torch.float32)
    for call in (
        lambda: margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, label_smoothing=smoothing),
        lambda: linear_softmax_loss(embeddings, weight, labels, label_smoothing=smoothing),
    ):
        with _Largest() as largest:
            call().backward()
        # A chunk of classes and a little more; all of them would be many times as many.
        assert largest.numel <= max(weight.numel(), 128 * (CPU_CHUNK_ROWS + 100)) < 128 * 20_000 / 6


def test_reductions_agree() -> None:
    embeddings, weight, labels = batch()
    each = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, reduction="none")
    assert each.shape == (8,)
    for reduction in ("mean", "sum"):
        got = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, reduction=reduction)
        torch.testing.assert_close(got, getattr(each, reduction)())
    with pytest.raises(ValueError, match=r"reduction must be one of 'mean', 'sum', 'none'; got 'avg'"):
        margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, reduction="avg")


def test_autocast_changes_nothing() -> None:
    embeddings, weight, labels = batch(dtype=torch.float32)
    for chunk_size in (WHOLE, 3):
        plain = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, chunk_size=chunk_size)
        expected = torch.autograd.grad(plain, (embeddings, weight))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0, chunk_size=chunk_size)
            gradients_got = torch.autograd.grad(got, (embeddings, weight))
        assert torch.equal(got, plain)
        assert all(torch.equal(mine, other) for mine, other in zip(gradients_got, expected, strict=True))


# The log-sum-exp and the linear layer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 1000])
@pytest.mark.parametrize("scale", [0.5, 64.0, 90.0, 5000.0])
def test_non_target_logsumexp_leaves_out_the_own_class(scale: float, chunk_size: int | None) -> None:
    embeddings, weight, labels = batch()
    cosine = F.normalize(embeddings) @ F.normalize(weight).T
    expected = torch.stack(
        [
            torch.logsumexp(scale * torch.cat([row[:label], row[label + 1 :]]), 0)
            for row, label in zip(cosine, labels, strict=True)
        ]
    )
    got = non_target_logsumexp(embeddings, weight, labels, scale=scale, chunk_size=chunk_size)
    torch.testing.assert_close(got, expected)
    mine = torch.autograd.grad(got.sum(), (embeddings, weight))
    for a, b in zip(mine, torch.autograd.grad(expected.sum(), (embeddings, weight)), strict=True):
        torch.testing.assert_close(a, b)


def test_non_target_logsumexp_survives_an_own_class_that_is_all_there_is() -> None:
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    for chunk_size in (None, 1):
        got = non_target_logsumexp(weight[:1], weight, torch.tensor([0]), scale=64.0, chunk_size=chunk_size)
        torch.testing.assert_close(got, torch.tensor([math.log(2) - 64]))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk_size", [None, 3, 1000])
def test_linear_softmax_loss_is_the_cross_entropy(with_bias: bool, smoothing: float, chunk_size: int | None) -> None:
    embeddings, weight, labels = batch()
    bias = torch.linspace(-3, 3, 10, dtype=torch.float64).requires_grad_() if with_bias else None
    inputs = (embeddings, weight) if bias is None else (embeddings, weight, bias)
    expected = F.cross_entropy(F.linear(embeddings, weight, bias), labels, label_smoothing=smoothing)
    got = linear_softmax_loss(embeddings, weight, labels, bias, label_smoothing=smoothing, chunk_size=chunk_size)
    torch.testing.assert_close(got, expected)
    for mine, other in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_linear_softmax_loss_keeps_its_running_maximum(chunk_size: int | None) -> None:
    embeddings = torch.tensor([[1e4, 0.0]], requires_grad=True)
    weight = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], requires_grad=True)
    for label, expected in ((2, 0.0), (0, 3e4), (1, 1e4)):
        got = linear_softmax_loss(embeddings, weight, torch.tensor([label]), chunk_size=chunk_size)
        assert got.item() == expected
        assert all(torch.isfinite(value).all() for value in torch.autograd.grad(got, (embeddings, weight)))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk_size", [None, 3, 1000])
@pytest.mark.parametrize("size", [1e-30, 1e18, 1e25, 2e35, 3e38])
def test_linear_softmax_loss_is_a_number_for_any_embedding(
    size: float, with_bias: bool, smoothing: float, chunk_size: int | None
) -> None:
    embeddings, weight, labels = batch(dtype=torch.float32)
    large = (embeddings.detach() / embeddings.detach().abs().max() * size).requires_grad_()
    bias = torch.linspace(-3, 3, len(weight)).requires_grad_() if with_bias else None
    inputs = (large, weight) if bias is None else (large, weight, bias)
    logits = F.linear(large.double(), weight.double(), None if bias is None else bias.double())
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    arguments = {"label_smoothing": smoothing, "chunk_size": chunk_size}
    got = linear_softmax_loss(large, weight, labels, bias, reduction="none", **arguments)
    # What is larger than the largest float32 is infinite there; nothing else is.
    torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-6 * min(size, 1e30))
    loss = linear_softmax_loss(large, weight, labels, bias, **arguments)
    wanted = torch.autograd.grad(expected.mean(), inputs)
    for mine, other in zip(torch.autograd.grad(loss, inputs), wanted, strict=True):
        assert torch.isfinite(mine).all()
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6 * float(other.abs().max()))


# What is refused ------------------------------------------------------------------------------------------------------

GOOD = torch.zeros(8, dtype=torch.int64)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (GOOD - 1, r"labels must be 8 integers in \[0, 9\], one for each embedding; got -1"),
        (GOOD - 100, "got -100"),
        (GOOD + 10, "got 10"),
        (GOOD.float(), "got dtype torch.float32"),
        (GOOD.bool(), "got dtype torch.bool"),
        (GOOD.to(torch.complex64), "got dtype torch.complex64"),
        (GOOD[:7], r"got shape \(7,\)"),
        (GOOD[:, None], r"got shape \(8, 1\)"),
        ([0] * 8, "as a tensor; got list"),
        (GOOD.to("meta"), "on cpu; got them on meta"),
    ],
)
def test_wrong_labels_are_refused_in_one_line(labels: Tensor, message: str) -> None:
    embeddings, weight, _ = batch()
    for call in (
        lambda: margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0),
        lambda: non_target_logsumexp(embeddings, weight, labels, scale=30.0),
        lambda: linear_softmax_loss(embeddings, weight, labels),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (torch.zeros(0, 16), "at least one sample; got an empty batch"),
        (torch.zeros(8, 15), r"embeddings must have shape \(batch, 16\)"),
        (torch.zeros(16), r"got \(16,\)"),
        (torch.zeros(8, 16, dtype=torch.int64), "embeddings must be floating point .*; got torch.int64"),
        (torch.zeros(8, 16, device="meta"), "embeddings must be on the device of the class centers, cpu; got meta"),
    ],
)
def test_wrong_embeddings_are_refused_in_one_line(embeddings: Tensor, message: str) -> None:
    _, weight, _ = batch()
    with pytest.raises(ValueError, match=message):
        margin_softmax_loss(embeddings, weight, GOOD[: len(embeddings)], arc(0.5), scale=30.0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_integer_labels_of_every_kind_are_accepted(dtype: torch.dtype) -> None:
    embeddings, weight, labels = batch()
    expected = margin_softmax_loss(embeddings, weight, labels, arc(0.5), scale=30.0)
    assert torch.equal(margin_softmax_loss(embeddings, weight, labels.to(dtype), arc(0.5), scale=30.0), expected)


# Compilation ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [WHOLE, 3])
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo hides it, which an error filter comes before
def test_compiled_loss_equals_the_eager_one(chunk_size: int | None) -> None:
    embeddings, weight, labels = batch(dtype=torch.float32)

    def call(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return margin_softmax_loss(x, w, y, arc(0.5), scale=30.0, chunk_size=chunk_size, check_labels=False)

    expected = call(embeddings, weight, labels)
    got = torch.compile(call)(embeddings, weight, labels)
    torch.testing.assert_close(got, expected)
    mine = torch.autograd.grad(got, (embeddings, weight))
    for a, b in zip(mine, torch.autograd.grad(expected, (embeddings, weight)), strict=True):
        torch.testing.assert_close(a, b)
