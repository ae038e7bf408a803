"""MagFace's weight of the norm term, and the paper's bound on it."""

import re
import warnings

import pytest
import torch

from arcface_pl.heads import MagFaceHead


def slope_at_the_shortest(norm_weight: float, scale: float = 64.0) -> float:
    """The derivative of the loss by the norm, at l_a, for the sample that wants a short embedding most.

    It is at 90 degrees minus its margin from its class, and on another one: probability and sine are 1.
    """
    head = MagFaceHead(2, 2, norm_weight=norm_weight, scale=scale).double()
    direction = torch.tensor([[torch.tensor(0.45).sin(), torch.tensor(0.45).cos()]], dtype=torch.float64)
    head.weight.data = torch.cat([torch.tensor([[1.0, 0.0]], dtype=torch.float64), direction])
    norm = torch.tensor(head.min_norm, dtype=torch.float64, requires_grad=True)
    loss = head.loss(norm * direction, torch.tensor([0]))
    return torch.autograd.grad(loss, norm)[0].item()


def test_below_the_papers_bound_the_norm_of_a_hard_sample_sinks() -> None:
    bound = 64 * (0.8 - 0.45) / (110 - 10) * (110 * 10) ** 2 / (110**2 - 10**2)
    assert abs(slope_at_the_shortest(bound * (1 + 1e-9))) < 1e-6
    assert slope_at_the_shortest(35.0) < -0.1
    with pytest.warns(UserWarning, match=re.escape(f"norm_weight: got 20.0; expected 0, or at least {bound:.4g}")):
        assert slope_at_the_shortest(20.0) > 0.02


@pytest.mark.parametrize(
    "options",
    [{"norm_weight": 0.0}, {"norm_weight": 20.0, "scale": 30.0}, {"norm_weight": 1.0, "max_margin": 0.45}, {}],
)
def test_no_warning_where_the_bound_holds_or_the_term_is_off(options: dict) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MagFaceHead(8, 5, **options)
