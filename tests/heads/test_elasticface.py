"""ElasticFace's random margins."""

import pytest
import torch
from torch import Tensor

from arcface_pl.heads import (
    HEADS,
    ElasticFaceHead,
    MarginHead,
)

margin_heads = pytest.mark.parametrize("name", [name for name, head in HEADS.items() if issubclass(head, MarginHead)])


def batch(size: int = 12, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return 10 * torch.randn(size, 8, generator=generator), torch.arange(size) % classes


def drawn_margins(head: ElasticFaceHead, size: int) -> Tensor:
    """Read the margins back from the logits of embeddings that lie at right angles to their class."""
    head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    logits = head(torch.tensor([[0.0, 1.0]]).repeat(size, 1), torch.zeros(size, dtype=torch.int64))
    return -(logits[:, 0] / head.scale_value).detach()


def test_elastic_margins_are_normal_and_a_function_of_seed_step_and_batch() -> None:
    head = ElasticFaceHead(2, 2, variant="cos", margin=0.35, sigma=0.02)
    head.set_progress(epoch=0, step=5, seed=3)
    margins = drawn_margins(head, 20_000)
    assert margins.mean().item() == pytest.approx(0.35, abs=1e-3)
    assert margins.std().item() == pytest.approx(0.02, rel=0.03)
    assert torch.equal(drawn_margins(head, 20_000), margins)
    for step, seed, number in ((6, 3, 0), (5, 4, 0), (5, 3, 1)):
        head.set_progress(epoch=0, step=step, seed=seed, batch=number)
        other = drawn_margins(head, 20_000)
        assert abs(torch.corrcoef(torch.stack([margins, other]))[0, 1]) < 0.03
    torch.testing.assert_close(drawn_margins(head.eval(), 5), torch.full((5,), 0.35))


def test_elastic_draw_leaves_the_global_generator_alone() -> None:
    embeddings, labels = batch()
    head = ElasticFaceHead(8, 5)
    state = torch.get_rng_state()
    head.loss(embeddings, labels)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("variant", ["arc", "cos"])
def test_the_plus_variant_gives_the_larger_margins_to_the_farther_samples(variant: str) -> None:
    embeddings, labels = batch(50)
    heads = [ElasticFaceHead(8, 5, margin=0.3, variant=kind).double() for kind in (variant, f"{variant}+")]
    margins = []
    for head in heads:
        head.load_state_dict(heads[0].state_dict())
        head.set_progress(epoch=0, step=4, seed=1)
        cosine, sine = head.target_angle(embeddings.double(), labels)
        psi = head.psi(cosine, sine, embeddings, labels)
        margins.append((cosine - psi if variant == "cos" else psi.acos() - cosine.acos()).detach())
    torch.testing.assert_close(margins[1].sort().values, margins[0].sort().values)  # the same draw
    torch.testing.assert_close(margins[1][cosine.argsort()], margins[0].sort(descending=True).values)
    assert not torch.allclose(*margins)
    plain = ElasticFaceHead(8, 5, margin=0.3, variant=variant).double()
    plain.load_state_dict(heads[0].state_dict())
    assert torch.equal(heads[1].eval().loss(embeddings, labels), plain.eval().loss(embeddings, labels))
