"""Any network as a backbone: what it may return, and what one forward pass finds out without leaving a trace."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN
from arcface_pl.backbones.adapter import adapt, embedding_width


class Returns(nn.Module):
    """Embeds by one matrix, and returns what ``form`` makes of it."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.form, self.fc = form, nn.Linear(4, 6)

    def forward(self, images: Tensor) -> Any:
        return self.form(self.fc(images.flatten(1)))


TOKENS = torch.zeros(2, 5, 6)


@pytest.mark.parametrize(
    "form",
    [
        lambda found: found,
        lambda found: found[..., None],
        lambda found: found[..., None, None],
        lambda found: (found,),
        lambda found: [found, found.norm(dim=1, keepdim=True)],  # AdaFace's
        lambda found: (TOKENS, found),  # Hugging Face's without return_dict
        lambda found: OrderedDict(last_hidden_state=TOKENS, pooler_output=found),
        lambda found: {"last_hidden_state": TOKENS, "pooler_output": found[..., None, None]},
        lambda found: {"logits": found[:, :2], "embedding": found},
        lambda found: {"x_norm_clstoken": found, "x_norm_patchtokens": TOKENS, "masks": None},
        lambda found: {"anything": found},
    ],
)
def test_one_embedding_per_image_is_found(form: Callable[[Tensor], Any]) -> None:
    network = Returns(form)
    images = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    wanted = network.fc(images.flatten(1))
    assert embedding_width(network, 1, 2) == 6
    assert torch.equal(ArcFaceModule(network, ArcFaceHead(6, 3))(images), wanted)
    assert set(network.state_dict()) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (lambda found: TOKENS, r"Returns returning \(2, 5, 6\)"),
        (lambda found: found[..., None, None].expand(-1, -1, 7, 7), r"Returns returning \(2, 6, 7, 7\)"),
        (lambda found: {"last_hidden_state": TOKENS, "pooler_output": None}, r"last_hidden_state: \(2, 5, 6\)"),
        (lambda found: (TOKENS, TOKENS), r"\(\(2, 5, 6\), \(2, 5, 6\)\)"),
        (lambda found: found.sum(), r"returning \(\)"),
        (lambda found: found[:1], r"returning \(1, 6\) for images \(2, 1, 2, 2\)"),
        (lambda found: None, "returning NoneType"),
        (lambda found: found.long(), "returning torch.int64"),
        (lambda found: {"a": found, "b": found}, r"returning {a: \(2, 6\), b: \(2, 6\)}"),
    ],
)
def test_anything_else_is_refused_by_its_shape(form: Callable[[Tensor], Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"^backbone: got .*{said}.*; expected one embedding \(B, D\) per image"):
        embedding_width(Returns(form), 1, 2)


def test_images_that_the_network_does_not_take_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"^backbone: got 'Returns, which fails: .*; expected to take images \(2, 3, 2"
    ):
        embedding_width(Returns(lambda found: found), 3, 2)


@pytest.mark.parametrize("kind", [ValueError, AttributeError, OSError, KeyError, RuntimeError])
def test_whatever_a_network_raises_is_said_to_be_its_own(kind: type[Exception]) -> None:
    class Raises(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise kind("batch\nof two")

    with pytest.raises(ValueError, match=r"backbone: got [\"']Raises, which fails: .*batch.*of two"):
        embedding_width(Raises(), 1, 2)


def test_the_pass_leaves_no_trace_but_the_size_of_lazy_layers() -> None:
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 3))
    network[2].eval()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert embedding_width(network, 1, 4) == 3
    assert torch.equal(torch.get_rng_state(), before)
    assert network[1].weight.shape == (5, 16)
    assert [part.training for part in network] == [True, True, False, True, True]
    assert torch.equal(network[2].running_mean, torch.zeros(5))


def test_the_packages_own_networks_have_no_hook_and_others_one() -> None:
    assert not adapt(FastCNN(8))._forward_hooks
    network = Returns(lambda found: found)
    assert len(adapt(adapt(network))._forward_hooks) == 1
