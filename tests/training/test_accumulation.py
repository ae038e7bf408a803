"""Batches whose gradients are added up are one large batch."""

from collections.abc import Callable

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from arcface_pl import ArcFaceHead, ArcFaceModule, SimpleCNN


@pytest.mark.parametrize(("size", "accumulated"), [(8, 4), (4, 8), (32, 1)])
def test_accumulated_batches_are_one_large_batch(
    make_trainer: Callable[..., L.Trainer], size: int, accumulated: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(96, 1, 28, 28, generator=generator), torch.arange(96) % 10

    def train(batch_size: int, accumulate: int) -> ArcFaceModule:
        torch.manual_seed(0)
        module = ArcFaceModule(SimpleCNN(16), ArcFaceHead(16, 10), lambda params: torch.optim.SGD(params, 0.01))
        trainer = make_trainer(max_epochs=2, accumulate_grad_batches=accumulate)
        trainer.fit(module, DataLoader(TensorDataset(images, labels), batch_size))
        assert trainer.global_step == 6
        return module

    torch.manual_seed(0)
    start = ArcFaceModule(SimpleCNN(16), ArcFaceHead(16, 10))
    whole, parts = train(32, 1), train(size, accumulated)
    for name, weights in whole.named_parameters():
        torch.testing.assert_close(parts.get_parameter(name), weights, rtol=0, atol=1e-6)
        assert (weights - start.get_parameter(name)).abs().max() > 1e-4  # else nothing was compared
