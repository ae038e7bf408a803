"""The heads on a CUDA device: the same numbers as on a CPU, and no step that waits for the device."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from tiny_runs import waiting

from arcface_pl.heads import HEADS, ArcFaceHead, Head, LinearHead, shard_head

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def batch(num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 5 * torch.randn(64, 32, generator=generator), torch.randint(num_classes, (64,), generator=generator)


@pytest.mark.parametrize("num_classes", [10, 100_000])
@pytest.mark.parametrize("name", HEADS)
def test_loss_and_gradients_are_those_of_the_cpu(name: str, num_classes: int) -> None:
    torch.manual_seed(0)
    head = HEADS[name](32, num_classes)
    there = copy.deepcopy(head).cuda()
    embeddings, labels = batch(num_classes)
    results = []
    for each, x, y in ((head, embeddings, labels), (there, embeddings.cuda(), labels.cuda())):
        x = x.requires_grad_()
        loss = each.loss(x, y)
        loss.backward()
        results.append([value.cpu() for value in (loss.detach(), x.grad, each.weight.grad)])
    for mine, other in zip(*results, strict=True):
        assert (mine - other).norm() <= 1e-5 * other.norm()


def train_without_waiting(head: Head) -> None:
    head.check_labels = False
    embeddings, labels = (value.cuda() for value in batch(head.num_classes))
    embeddings.requires_grad_()
    head.set_progress(epoch=0.0, step=0, seed=0)
    head.loss(embeddings, labels).backward()
    waiting("error")
    try:
        for step in range(1, 3):
            head.set_progress(epoch=step / 10, step=step, seed=0)
            head.loss(embeddings, labels).backward()
            head.zero_grad(set_to_none=True)
    finally:
        waiting("default")


@pytest.mark.parametrize("num_classes", [10, 100_000])
@pytest.mark.parametrize("name", HEADS)
def test_a_step_never_waits_for_the_device(name: str, num_classes: int) -> None:
    train_without_waiting(HEADS[name](32, num_classes).cuda())


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("name", ["ArcFaceHead", "CurricularFaceHead", "LinearHead"])
def test_a_step_in_another_precision_never_waits(name: str, precision: str) -> None:
    train_without_waiting(HEADS[name](32, 100_000, non_target_precision=precision).cuda())


@pytest.mark.parametrize("sample_rate", [1.0, 0.1])
@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD, torch.optim.AdamW])
def test_a_sharded_head_of_one_process_never_waits(
    sample_rate: float, optimizer: Callable[..., torch.optim.Optimizer] | None
) -> None:
    head = shard_head(ArcFaceHead(32, 100_000).cuda(), sample_rate=sample_rate)
    if optimizer is not None:
        head.update_in_backward(optimizer(head.parameters(), lr=0.1, weight_decay=1e-4))
    train_without_waiting(head)


@pytest.mark.parametrize("sample_rate", [1.0, 0.1])
def test_an_update_in_the_backward_pass_is_that_of_the_cpu(sample_rate: float) -> None:
    """The draw of the classes is the device's own, so that a sampled head is only held against its needed classes."""
    torch.manual_seed(0)
    head = ArcFaceHead(32, 100_000)
    embeddings, labels = batch(100_000)
    moved = []
    for device in ("cpu", "cuda"):
        there = shard_head(copy.deepcopy(head).to(device), sample_rate=sample_rate)
        there.update_in_backward(torch.optim.SGD(there.parameters(), lr=0.1, momentum=0.9))
        there.set_progress(epoch=0.0, step=0, seed=0)
        before = there.weight.detach().cpu().clone()
        there.loss(embeddings.to(device), labels.to(device)).backward()
        moved.append(there.weight.detach().cpu() - before)
    if sample_rate == 1:
        assert (moved[0] - moved[1]).norm() <= 1e-5 * moved[0].norm()
    for change in moved:
        assert change[labels].abs().amax(dim=1).min() > 0
        assert int((change != 0).any(dim=1).sum()) == round(100_000 * sample_rate)


@pytest.mark.parametrize("size", [24, 100])  # logits kept between the passes, and made twice
@pytest.mark.parametrize(("precision", "unit"), [("float32", 1e-6), ("tf32", 2.0**-11), ("bfloat16", 2.0**-8)])
@pytest.mark.parametrize("kind", [ArcFaceHead, LinearHead])
def test_another_precision_costs_no_more_than_its_rounding(
    kind: type[Head], precision: str, unit: float, size: int
) -> None:
    """The bounds of tests/functional/test_products.py. TF32 keeps 11 bits."""
    torch.manual_seed(0)
    head = kind(64, 6000, **({"scale": 64.0} if kind is ArcFaceHead else {}), non_target_precision=precision).cuda()
    exact = copy.deepcopy(head).double()
    embeddings = torch.randn(size, 64, device="cuda")
    labels = torch.arange(size, device="cuda")
    results = []
    for each, x in ((head, embeddings), (exact, embeddings.double())):
        x = x.requires_grad_()
        loss = each.loss(x, labels)
        loss.backward()
        results.append([value.double() for value in (loss.detach(), x.grad, each.weight.grad)])
    (loss, *grads), (wanted, *exacts) = results
    assert abs(float(loss - wanted)) <= 64 * (2 * unit + unit**2)
    typical = math.hypot(0.59 * unit, 0.59 * unit * 64 / math.sqrt(64))
    for mine, other in zip(grads, exacts, strict=True):
        assert (mine - other).norm() <= typical * other.norm()
    assert torch.backends.cuda.matmul.fp32_precision != "tf32"


def test_wrong_labels_raise_the_same_line_as_on_a_cpu() -> None:
    head = HEADS["ArcFaceHead"](32, 10).cuda()
    embeddings, labels = (value.cuda() for value in batch(10))
    with pytest.raises(ValueError, match=r"^labels: got -1; expected 64 integers in \[0, 9\], one per embedding"):
        head.loss(embeddings, labels * 0 - 1)
    with pytest.raises(ValueError, match=r"^labels.device: got 'cpu'; expected that of the embeddings, cuda:0"):
        head.loss(embeddings, labels.cpu())
