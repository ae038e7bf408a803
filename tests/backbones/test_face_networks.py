"""The networks of face recognition: parameter counts, names and order of the published weights, export."""

from pathlib import Path

import pytest
import torch
from torch import nn

from arcface_pl.backbones import IResNet, MobileFaceNet

PER_UNIT = ("bn1", "conv1", "bn2", "prelu", "conv2", "bn3")
UNITS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}


def on_meta(depth: int) -> IResNet:
    with torch.device("meta"):
        return IResNet(depth)


@pytest.mark.parametrize(
    ("depth", "millions", "entries"),
    [(18, 24.0, 187), (34, 34.1, 331), (50, 43.6, 475), (100, 65.2, 925), (200, 118.8, 1807)],
)
def test_iresnet_has_the_published_numbers(depth: int, millions: float, entries: int) -> None:
    network = on_meta(depth)
    assert round(sum(weight.numel() for weight in network.parameters()) / 1e6, 1) == millions
    assert len(network.state_dict()) == entries


@pytest.mark.parametrize("depth", UNITS)
def test_iresnet_has_the_published_names_in_their_order(depth: int) -> None:
    modules = ["conv1", "bn1", "prelu"]
    for stage, number in enumerate(UNITS[depth], start=1):
        for unit in range(number):
            modules += [f"layer{stage}.{unit}.{name}" for name in PER_UNIT]
            modules += [f"layer{stage}.0.downsample.{part}" for part in (0, 1)] if unit == 0 else []
    modules += ["bn2", "fc", "features"]
    assert list(dict.fromkeys(name.rpartition(".")[0] for name in on_meta(depth).state_dict())) == modules


def test_iresnet_has_the_published_shapes() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in on_meta(50).state_dict().items()}
    assert shapes["conv1.weight"] == (64, 3, 3, 3)
    assert shapes["layer2.0.conv1.weight"] == (128, 64, 3, 3)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert shapes["layer4.2.prelu.weight"] == (512,)
    assert (shapes["fc.weight"], shapes["fc.bias"]) == ((512, 512 * 7 * 7), (512,))


def test_mobilefacenet_has_the_size_of_the_paper() -> None:
    with torch.device("meta"):
        network = MobileFaceNet()
        embeddings = network.eval()(torch.empty(1, 3, 112, 112))
    assert embeddings.shape == (1, 128)
    # Table 1 of the paper, from its rows: 1 x 1 expansion, 3 x 3 depthwise, 1 x 1 projection; the paper says 0.99 M
    rows = [(64, 2, 64)] * 5 + [(64, 4, 128)] + [(128, 2, 128)] * 6 + [(128, 4, 128)] + [(128, 2, 128)] * 2
    convolutions = sum(
        wide * narrow * factor + 9 * narrow * factor + narrow * factor * wide for narrow, factor, wide in rows[:5]
    )
    convolutions += sum(
        narrow * narrow * factor + 9 * narrow * factor + narrow * factor * wide for narrow, factor, wide in rows[5:]
    )
    convolutions += 27 * 64 + 9 * 64 + 128 * 512 + 49 * 512 + 512 * 128
    found = sum(part.weight.numel() for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear))
    assert found == convolutions
    assert 0.95e6 < sum(weight.numel() for weight in network.parameters()) < 1.05e6


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("network", [IResNet(18, 16, in_channels=1, image_size=28), MobileFaceNet(16, 1, 28)])
def test_onnx_computes_the_same(network: nn.Module, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    images = torch.randn(3, 1, 28, 28)
    network.train()
    with torch.no_grad():
        network(images)  # statistics that are not those of the start
        wanted = network.eval()(images)
    torch.onnx.export(network, (images,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    (found,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("image_size", [9, 28, 32, 33, 64])
def test_any_size_is_embedded(image_size: int) -> None:
    images = torch.randn(2, 3, image_size, image_size)
    assert IResNet(18, 8, image_size=image_size)(images).shape == (2, 8)
    if image_size >= 17:
        assert MobileFaceNet(8, image_size=image_size)(images).shape == (2, 8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"depth": 20}, "depth: got 20; expected one of 18, 34, 50, 100, 200"),
        ({"image_size": 8}, "image_size: got 8"),
        ({"dropout": 1}, "dropout: got 1"),
    ],
)
def test_values_that_cannot_be(arguments: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IResNet(**{"depth": 18, "image_size": 28, **arguments})
