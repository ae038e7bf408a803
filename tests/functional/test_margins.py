"""psi against formulas written out anew in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from cases import arc
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from arcface_pl.functional import (
    adaface_psi,
    arcface_psi,
    combined_psi,
    cosface_psi,
    sphereface_psi,
)

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
