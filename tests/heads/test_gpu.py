"""The heads on a CUDA device: the same numbers as on a CPU, and no step that waits for the device."""

import copy

import pytest
import torch

from arcface_pl.heads import HEADS

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


@pytest.mark.parametrize("num_classes", [10, 100_000])
@pytest.mark.parametrize("name", HEADS)
def test_a_step_never_waits_for_the_device(name: str, num_classes: int) -> None:
    head = HEADS[name](32, num_classes).cuda()
    head.check_labels = False
    embeddings, labels = (value.cuda() for value in batch(num_classes))
    embeddings.requires_grad_()
    head.loss(embeddings, labels).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(2):
            head.set_progress(epoch=step / 10, step=step, seed=0)
            head.loss(embeddings, labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_wrong_labels_raise_the_same_line_as_on_a_cpu() -> None:
    head = HEADS["ArcFaceHead"](32, 10).cuda()
    embeddings, labels = (value.cuda() for value in batch(10))
    with pytest.raises(ValueError, match=r"^labels: got -1; expected 64 integers in \[0, 9\], one per embedding"):
        head.loss(embeddings, labels * 0 - 1)
    with pytest.raises(ValueError, match=r"^labels.device: got 'cpu'; expected that of the embeddings, cuda:0"):
        head.loss(embeddings, labels.cpu())
