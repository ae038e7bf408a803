"""torch.compile on whole heads."""

import copy

import pytest
import torch

from arcface_pl.heads import HEADS, MarginHead

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The .grad attribute"),  # dynamo hides it, which an error filter comes before
]


@pytest.mark.parametrize("name", HEADS)
def test_compiled_head_equals_the_eager_one_while_its_margin_grows(name: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    head = HEADS[name](16, 10, **({"margin_warmup_epochs": 2} if issubclass(HEADS[name], MarginHead) else {}))
    eager = copy.deepcopy(head)
    compiled = torch.compile(head.loss)
    embeddings, labels = 5 * torch.randn(12, 16), torch.arange(12) % 10
    for step in range(3):
        for each in (head, eager):
            each.check_labels = False
            each.set_progress(epoch=step / 2, step=step, seed=0)
            each.zero_grad()
        got, expected = compiled(embeddings, labels), eager.loss(embeddings, labels)
        torch.testing.assert_close(got, expected)
        got.backward()
        expected.backward()
        torch.testing.assert_close(head.weight.grad, eager.weight.grad)
        torch.testing.assert_close(head.state_dict(), eager.state_dict())
