import inspect

import pytest
import torch

from arcface_pl.backbones import BACKBONES, SimpleCNN
from arcface_pl.specs import build, spec_of


def test_simple_cnn_has_the_parameters_of_the_source_document() -> None:
    # conv1 320 + conv2 18,496 + fc1 401,536
    assert sum(weight.numel() for weight in SimpleCNN().parameters()) == 420_352


def test_simple_cnn_equals_the_source_documents_forward() -> None:
    torch.manual_seed(0)
    network = SimpleCNN()
    images = torch.randn(5, 1, 28, 28)
    features = torch.nn.functional.max_pool2d(torch.relu(network.conv1(images)), 2)
    features = torch.nn.functional.max_pool2d(torch.relu(network.conv2(features)), 2)
    torch.testing.assert_close(network(images), network.fc1(features.view(5, -1)))


@pytest.mark.parametrize(("channels", "size", "width"), [(1, 28, 128), (3, 32, 64), (1, 30, 2)])
def test_sizes(channels: int, size: int, width: int) -> None:
    network = SimpleCNN(width, channels, size)
    assert network(torch.zeros(2, channels, size, size)).shape == (2, width)


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 1, 32, 28), (1, 28, 28)])
def test_wrong_images_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images: got shape .* but SimpleCNN takes \(B, 1, 28, 28\)"):
        SimpleCNN()(torch.zeros(shape))


WRONG = [{"embedding_dim": 0}, {"in_channels": 1.0}, {"image_size": 3}, {"image_size": True}]


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_sizes_are_named(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        SimpleCNN(**arguments)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_constructor_argument_is_an_attribute(name: str) -> None:
    network = BACKBONES[name]()
    for parameter in inspect.signature(BACKBONES[name]).parameters:
        assert hasattr(network, parameter)
    assert spec_of(build("backbone", BACKBONES, spec_of(network))) == spec_of(network)
