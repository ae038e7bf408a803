"""The package's networks: sizes, shapes, specs."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from arcface_pl.backbones import BACKBONES, FastCNN, SimpleCNN, SmallResNet
from arcface_pl.checkpoints.specs import build, spec_of

PLAIN = (SimpleCNN, FastCNN, SmallResNet)


def num_parameters(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_simple_cnn_has_the_parameters_of_the_original_network() -> None:
    # conv1 320 + conv2 18,496 + fc1 401,536
    assert num_parameters(SimpleCNN()) == 420_352


def test_fast_cnn_has_the_parameters_its_docstring_says() -> None:
    # convolutions 800 + 18,432, norms 2 x (32 + 64 + 64), linear 64 x 9 x 64
    assert num_parameters(FastCNN()) == 800 + 18_432 + 320 + 36_864 == 56_416


def test_small_resnet_has_less_than_a_million_and_a_half() -> None:
    assert num_parameters(SmallResNet()) < 1_500_000


def test_simple_cnn_equals_the_source_documents_forward() -> None:
    torch.manual_seed(0)
    network = SimpleCNN()
    images = torch.randn(5, 1, 28, 28)
    features = F.max_pool2d(torch.relu(network.conv1(images)), 2)
    features = F.max_pool2d(torch.relu(network.conv2(features)), 2)
    torch.testing.assert_close(network(images), network.fc1(features.view(5, -1)))


def test_a_block_that_changes_nothing_carries_its_input() -> None:
    network = SmallResNet(8, width=10, num_blocks=1).eval()
    block = network.blocks[0]
    torch.nn.init.zeros_(block.norm2.weight)
    features = torch.randn(2, 10, 7, 7)
    assert torch.equal(block(features), features.relu())


def test_dropout_is_for_training_only() -> None:
    torch.manual_seed(0)
    network, images = SmallResNet(8, dropout=0.5), torch.randn(4, 1, 28, 28)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize("backbone", PLAIN)
@pytest.mark.parametrize(("channels", "size", "width"), [(1, 28, 128), (3, 32, 64), (1, 30, 2), (2, 9, 4), (1, 64, 8)])
def test_sizes(backbone: type, channels: int, size: int, width: int) -> None:
    network = backbone(width, channels, size)
    embeddings = network(torch.randn(2, channels, size, size))
    assert embeddings.shape == (2, width)
    embeddings.square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())


@pytest.mark.parametrize("backbone", PLAIN)
@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 1, 32, 28), (1, 28, 28)])
def test_wrong_images_are_named(backbone: type, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError,
        match=rf"images: got .*; expected shape \(B, 1, 28, 28\), for which this {backbone.__name__} was built",
    ):
        backbone()(torch.zeros(shape))


WRONG = [{"embedding_dim": 0}, {"in_channels": 1.0}, {"image_size": 3}, {"image_size": True}]


@pytest.mark.parametrize("backbone", PLAIN)
@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_sizes_are_named(backbone: type, arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        backbone(**arguments)


@pytest.mark.parametrize("arguments", [{"width": 4}, {"num_blocks": -1}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_wrong_shapes_of_the_resnet_are_named(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        SmallResNet(**arguments)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_constructor_argument_is_an_attribute(name: str) -> None:
    if name == "TimmBackbone":
        pytest.importorskip("timm")
    network = BACKBONES[name]()
    for parameter in inspect.signature(BACKBONES[name]).parameters:
        assert hasattr(network, parameter)
    assert spec_of(build("backbone", BACKBONES, spec_of(network))) == spec_of(network)


class Guest(nn.Module):
    """A stranger's network: no attribute for its argument, and a property that fails."""

    def __init__(self, width: int, depth: int = 2, *parts: object, **options: object) -> None:
        super().__init__()

    @property
    def depth(self) -> int:
        raise RuntimeError("not ready")


def test_a_strangers_class_has_a_spec() -> None:
    spec = spec_of(Guest(3))
    assert spec["name"] == "Guest"
    assert "depth" not in spec["kwargs"]
    assert spec_of(nn.Sequential(nn.Linear(2, 2)))["name"] == "Sequential"
