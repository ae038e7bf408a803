"""Second derivatives, forward mode and torch.func: right, or an error, never 0 or partly missing."""

from collections.abc import Callable

import pytest
import torch
from cases import arc, batch
from torch import Tensor
from torch.autograd import forward_ad

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
from arcface_pl.functional.similarity import target_cosine_sine

# torch scripts its decompositions for forward mode at first use
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

REFUSED = r"create_graph: got True; expected False: this loss has first derivatives only"

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
ONCE: dict[str, Loss] = {
    "whole": lambda x, w, y: margin_softmax_loss(x, w, y, arc(0.5), scale=30.0, check_labels=False),
    "chunked": lambda x, w, y: margin_softmax_loss(x, w, y, arc(0.5), scale=30.0, chunk_size=3, check_labels=False),
    # The gradient that comes in here is a plain number, which torch's own once_differentiable lets pass
    "logsumexp": lambda x, w, y: non_target_logsumexp(x, w, y, scale=30.0).sum(),
    "logsumexp, chunked": lambda x, w, y: non_target_logsumexp(x, w, y, scale=30.0, chunk_size=3).sum(),
    "linear, chunked": lambda x, w, y: linear_softmax_loss(x, w, y, chunk_size=3, check_labels=False),
}


@pytest.mark.parametrize("name", ONCE)
def test_a_second_derivative_of_a_loss_is_refused(name: str) -> None:
    embeddings, weight, labels = batch()
    for inputs in (embeddings, weight, (embeddings, weight)):
        with pytest.raises(ValueError, match=REFUSED):
            torch.autograd.grad(ONCE[name](embeddings, weight, labels), inputs, create_graph=True)
    gradients = torch.autograd.grad(ONCE[name](embeddings, weight, labels), (embeddings, weight))
    assert all(value.abs().sum() > 0 for value in gradients)


@pytest.mark.parametrize("name", ONCE)
def test_forward_mode_and_torch_func_are_refused(name: str) -> None:
    embeddings, weight, labels = (value.detach() for value in batch())
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward mode AD"):
        ONCE[name](forward_ad.make_dual(embeddings, torch.ones_like(embeddings)), weight, labels)
    for call in (
        lambda: torch.func.grad(lambda x: ONCE[name](x, weight, labels).sum())(embeddings),
        lambda: torch.func.jvp(lambda x: ONCE[name](x, weight, labels), (embeddings,), (embeddings,)),
        lambda: torch.func.vmap(lambda w: ONCE[name](embeddings, w, labels))(weight[None]),
    ):
        with pytest.raises(RuntimeError, match="setup_context|vmap"):
            call()


def test_a_small_linear_loss_has_every_derivative() -> None:
    embeddings, weight, labels = batch(4, 5, 3)

    def losses(x: Tensor, w: Tensor) -> Tensor:
        return linear_softmax_loss(x, w, labels, reduction="none", check_labels=False)

    assert torch.autograd.gradgradcheck(losses, (embeddings, weight))
    assert torch.autograd.gradcheck(losses, (embeddings, weight), check_forward_ad=True)
    embeddings, weight = embeddings.detach(), weight.detach()
    got = torch.func.grad(lambda x: losses(x, weight).sum())(embeddings)
    leaf = embeddings.clone().requires_grad_()
    torch.testing.assert_close(got, torch.autograd.grad(losses(leaf, weight).sum(), leaf)[0])


def test_cosines_have_exact_second_derivatives() -> None:
    embeddings, weight, labels = batch(4, 5, 3)
    assert torch.autograd.gradgradcheck(cosine_similarity_matrix, (embeddings, weight))
    assert torch.autograd.gradgradcheck(lambda x: cosine_similarity_matrix(x, weight.detach()), (embeddings,))
    assert torch.autograd.gradgradcheck(lambda w: cosine_similarity_matrix(embeddings.detach(), w), (weight,))
    for sub_centers in (1, 5):
        assert torch.autograd.gradgradcheck(
            lambda x, w, k=sub_centers: target_cosine_sine(x, w, labels % (5 // k), k), (embeddings, weight)
        )


def test_second_derivatives_of_vectors_without_direction_are_0() -> None:
    embeddings = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.eye(3, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(cosine_similarity_matrix(embeddings, weight).sum(), embeddings, create_graph=True)
    for value in torch.autograd.grad(first.square().sum() + first.sum(), (embeddings, weight)):
        assert torch.equal(value, torch.zeros_like(value))


def test_cosines_refuse_forward_mode_and_torch_func() -> None:
    embeddings, weight, _ = (value.detach() for value in batch())
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward mode AD"):
        cosine_similarity_matrix(forward_ad.make_dual(embeddings, torch.ones_like(embeddings)), weight)
    for call in (
        lambda: torch.func.grad(lambda x: cosine_similarity_matrix(x, weight).sum())(embeddings),
        lambda: torch.func.jvp(lambda x: cosine_similarity_matrix(x, weight), (embeddings,), (embeddings,)),
        lambda: torch.func.vmap(lambda w: cosine_similarity_matrix(embeddings, w))(weight[None]),
    ):
        with pytest.raises(RuntimeError, match="setup_context"):
            call()


def test_every_psi_has_every_derivative_in_its_margins_too() -> None:
    """So that a margin may be learnt."""
    angle = torch.tensor([0.3, 1.0, 1.7, 2.9], dtype=torch.float64)
    margins = [torch.full_like(angle, value).requires_grad_() for value in (1.1, 0.4, 0.2)]
    angle.requires_grad_()
    for psi in (
        lambda a, m, *_: arcface_psi(a.cos(), m, sine=a.sin()),
        lambda a, m, *_: cosface_psi(a.cos(), m),
        lambda a, m, *_: sphereface_psi(a.cos(), m, sine=a.sin()),
        lambda a, *m: combined_psi(a.cos(), *m, sine=a.sin()),
        lambda a, q, m, _: adaface_psi(a.cos(), q - 1, m, sine=a.sin()),
    ):
        inputs = (angle, *margins)
        assert torch.autograd.gradcheck(psi, inputs, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(psi, inputs)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_a_learnable_margin_receives_its_gradient(chunk_size: int | None) -> None:
    embeddings, weight, labels = batch(4, 5, 3)
    margin = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def losses(x: Tensor, w: Tensor, m: Tensor) -> Tensor:
        def psi(cosine: Tensor, sine: Tensor) -> Tensor:
            return arcface_psi(cosine, m, sine=sine)

        return margin_softmax_loss(x, w, labels, psi, scale=8.0, reduction="none", chunk_size=chunk_size)

    assert torch.autograd.gradcheck(losses, (embeddings, weight, margin))
