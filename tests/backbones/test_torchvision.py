"""Torchvision's networks as backbones: all of them without memory, one of each family with numbers."""

import json
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from tiny_runs import save_model
from torchvision import models
from torchvision.models import ResNet18_Weights, ViT_B_32_Weights
from torchvision.models._api import WeightsEnum

from arcface_pl import ArcFaceHead, ArcFaceModule, TorchvisionBackbone
from arcface_pl.backbones import BACKBONES, WeightsError
from arcface_pl.checkpoints.specs import build, spec_of
from arcface_pl.cli import main

NAMES = models.list_models(module=models)
FAMILIES = (
    "alexnet",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "vgg11_bn",
    "vit_b_32",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_network_embeds_small_grey_and_large_many_channelled_images(name: str) -> None:
    with torch.device("meta"):
        for channels, size in ((1, 28), (5, 100)):
            network = TorchvisionBackbone(name, 64, channels, size)
            assert network(torch.empty(2, channels, size, size)).shape == (2, 64)
            assert size <= network.input_size <= max(4 * size, 224)


def test_the_list_is_not_empty() -> None:
    assert len(NAMES) >= 80
    assert set(FAMILIES) <= set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_one_of_each_family_trains_and_comes_back_from_its_spec(name: str) -> None:
    torch.manual_seed(0)
    network = TorchvisionBackbone(name, 16, 1, 28)
    images = torch.randn(4, 1, 28, 28)
    network(images).square().sum().backward()
    for key, weight in network.named_parameters():
        assert weight.grad is not None, key
        assert weight.grad.isfinite().all(), key
    copy = build("backbone", BACKBONES, spec_of(network))
    copy.load_state_dict(network.state_dict())
    network.eval()
    copy.eval()
    assert torch.equal(copy(images), network(images))
    assert (network(images) < 0).any()  # nothing that keeps embeddings to one side stands after the last layer


def test_an_image_of_equal_channels_gives_what_it_gives_as_a_grey_one(monkeypatch: pytest.MonkeyPatch) -> None:
    source = models.resnet18().eval()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **kwargs: source.state_dict())
    grey = torch.randn(2, 1, 32, 32)
    torch.manual_seed(1)
    expected = source.conv1(grey.expand(-1, 3, -1, -1))
    for channels in (1, 3, 6):
        network = TorchvisionBackbone("resnet18", 8, channels, 32, weights="DEFAULT")
        torch.testing.assert_close(network.network.conv1(grey.expand(-1, channels, -1, -1)), expected)
    torch.testing.assert_close(network.network.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert spec_of(network)["kwargs"]["weights"] is None  # or a checkpoint would fetch them again


def test_positions_of_a_transformer_are_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    source = models.vit_b_32()
    torch.nn.init.normal_(source.encoder.pos_embedding)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **kwargs: source.state_dict())
    network = TorchvisionBackbone("vit_b_32", 8, 3, 64, weights=ViT_B_32_Weights.IMAGENET1K_V1.name)
    old, new = source.encoder.pos_embedding, network.network.encoder.pos_embedding
    assert new.shape == (1, 1 + 2 * 2, 768)
    assert torch.equal(new[:, 0], old[:, 0])
    grid = old[:, 1:].reshape(1, 7, 7, 768).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=(2, 2), mode="bicubic", align_corners=True)
    torch.testing.assert_close(new[:, 1:], expected.flatten(2).transpose(1, 2))


def test_weights_out_of_reach_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: WeightsEnum, **kwargs: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", offline)
    with pytest.raises(WeightsError) as caught:
        TorchvisionBackbone("resnet18", weights="DEFAULT")
    assert "weights: IMAGENET1K_V1 of resnet18 could not be downloaded from" in str(caught.value)
    assert ResNet18_Weights.DEFAULT.url in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet19"}, "name: got 'resnet19'; expected one of torchvision's: alexnet"),
        ({"weights": "V9"}, "weights: got 'V9'; expected IMAGENET1K_V1, DEFAULT for resnet18, or none"),
        ({"embedding_dim": 0}, "embedding_dim: got 0"),
        ({"in_channels": 0}, "in_channels: got 0"),
        ({"image_size": 0}, "image_size: got 0"),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchvisionBackbone(**arguments)


def test_module_takes_it_and_a_checkpoint_brings_it_back(tmp_path: Path) -> None:
    module = ArcFaceModule(TorchvisionBackbone("squeezenet1_1", 8, 1, 28), ArcFaceHead(8, 10))
    loaded = ArcFaceModule.load_from_checkpoint(save_model(module, tmp_path / "model.ckpt"))
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(loaded(images), module.eval()(images))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_command_line_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backbone = ["--model.backbone", "TorchvisionBackbone", "--model.backbone.name", "shufflenet_v2_x0_5"]
    main(["fit", *backbone, "--data.dataset", "digits", "--max_epochs", "1", "--enable_progress_bar", "false"])
    results = json.loads(next(tmp_path.glob("lightning_logs/*/results.json")).read_text())
    assert results["num_parameters"] > 300_000
