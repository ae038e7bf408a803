"""What moves during training keeps float32 in narrow heads."""

import math

import pytest
import torch
from torch import Tensor

from arcface_pl.heads import (
    HEADS,
    AdaFaceHead,
    ArcFaceHead,
    CurricularFaceHead,
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


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_buffers_stay_in_float32_where_the_weights_are_narrow(name: str, dtype: torch.dtype) -> None:
    head = HEADS[name](8, 5, **({"class_margins": "frequency"} if issubclass(HEADS[name], MarginHead) else {}))
    head.set_class_counts(torch.tensor([3, 10, 100, 1000, 7]))
    before = {key: value.clone() for key, value in head.named_buffers()}
    nested = torch.nn.Sequential(head).to(dtype)  # as Lightning's bf16-true does
    assert head.weight.dtype == dtype
    for key, value in nested[0].named_buffers():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])
    assert all(value.dtype == torch.float64 for value in head.double().buffers())


@pytest.mark.parametrize("kind", [AdaFaceHead, CurricularFaceHead])
def test_running_averages_of_narrow_heads_are_those_of_wide_ones(kind: type) -> None:
    """In bfloat16 a step of 1% of the way would round to none."""
    embeddings, labels = batch()
    narrow, wide = kind(8, 5).bfloat16(), kind(8, 5)
    wide.weight.data = narrow.weight.detach().float()
    for step in range(100):
        images = (embeddings * (1 + step / 20)).bfloat16()
        narrow.loss(images, labels)
        wide.loss(images.float(), labels)
    for key, value in wide.named_buffers():
        torch.testing.assert_close(dict(narrow.named_buffers())[key], value)


def test_a_default_dtype_of_bfloat16_changes_no_buffer_and_no_draw() -> None:
    """Lightning's bf16-true makes modules under it."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        heads = [AdaFaceHead(8, 5), CurricularFaceHead(8, 5), ArcFaceHead(8, 5, class_margins="frequency")]
        assert all(value.dtype == torch.float32 for head in heads for value in head.buffers())
        elastic = ElasticFaceHead(2, 2, variant="cos", margin=0.35)
        drawn = drawn_margins(elastic.float(), 5)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(drawn, drawn_margins(ElasticFaceHead(2, 2, variant="cos", margin=0.35), 5))


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("kind", "options"), [(AdaFaceHead, {}), (CurricularFaceHead, {}), (ArcFaceHead, {"scale": "adacos_dynamic"})]
)
def test_a_batch_that_is_not_finite_leaves_running_averages_as_they_were(
    kind: type, options: dict[str, str], number: float
) -> None:
    """A loop that skips the step, as those with a loss scaler do, would train on NaN from then on."""
    embeddings, labels = batch()
    head = kind(8, 5, **options)
    head.loss(embeddings, labels)
    before = {key: value.clone() for key, value in head.named_buffers()}
    bad = embeddings.clone()
    bad[3] = number
    assert not head.loss(bad, labels).isfinite()
    for key, value in head.named_buffers():
        if number is math.nan:
            assert torch.equal(value, before[key])
        assert value.isfinite()
    head.loss(2 * embeddings, labels)
    assert head.loss(embeddings, labels).isfinite()
