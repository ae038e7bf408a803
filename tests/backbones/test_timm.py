"""timm's networks as backbones: sizes, weights from a local file, and the way back from a spec."""

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from arcface_pl import ArcFaceHead, ArcFaceModule, TimmBackbone
from arcface_pl.backbones import BACKBONES, WeightsError
from arcface_pl.checkpoints.network import rebuild
from arcface_pl.checkpoints.specs import build, spec_of
from arcface_pl.cli import main
from arcface_pl.errors import UserError
from arcface_pl.training.init_from import unlike_pretraining

timm = pytest.importorskip("timm")

SMALL = "mobilenetv3_small_050"
DINO = "vit_small_patch16_224.dino"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of SMALL, as timm's users save them, and a part of them."""
    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    state = timm.create_model(SMALL).state_dict()
    torch.save(state, folder / "small.pth")
    save_file({name: tensor for name, tensor in state.items() if "blocks.5" not in name}, folder / "part.safetensors")
    return folder


@pytest.mark.parametrize(
    ("name", "image_size", "input_size"),
    [
        ("resnet18", 28, 28),
        ("mobilenetv3_small_050", 28, 28),
        ("vit_tiny_patch16_224", 28, 32),
        (DINO, 8, 16),
        ("vit_small_patch14_dinov2", 100, 112),
    ],
)
def test_images_of_any_size_and_channels_are_embedded(name: str, image_size: int, input_size: int) -> None:
    with torch.device("meta"):
        network = TimmBackbone(name, 16, 5, image_size)
        assert network(torch.empty(2, 5, image_size, image_size)).shape == (2, 16)
    assert network.input_size == input_size


def test_a_file_gives_what_timm_gives_and_gray_images_what_equal_channels_give(saved: Path) -> None:
    source = timm.create_model(SMALL)
    source.load_state_dict(torch.load(saved / "small.pth", weights_only=True))
    source.reset_classifier(0)
    gray = torch.randn(2, 1, 32, 32)
    wanted = source.eval()(gray.expand(-1, 3, -1, -1))
    for channels in (1, 3):
        network = TimmBackbone(SMALL, 8, channels, 32, str(saved / "small.pth")).eval()
        torch.testing.assert_close(network.network(gray.expand(-1, channels, -1, -1)), wanted)
    assert network.trained_on == {"image_size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.slow
def test_a_dino_transformer_takes_its_weights_at_any_size_and_comes_back(tmp_path: Path) -> None:
    source = timm.create_model(DINO, num_classes=0).eval()
    save_file(source.state_dict(), tmp_path / "dino.safetensors")
    file = str(tmp_path / "dino.safetensors")
    images = torch.randn(2, 3, 32, 32)
    whole = TimmBackbone(DINO, 8, 3, 32, file, input_size=224).eval()
    enlarged = torch.nn.functional.interpolate(images, size=(224, 224), mode="bilinear")
    torch.testing.assert_close(whole.network(enlarged), source(enlarged))
    network = TimmBackbone(DINO, 8, 3, 32, file).eval()
    assert network.network.pos_embed.shape == (1, 1 + 2 * 2, 384)
    assert torch.equal(network.network.blocks[3].mlp.fc1.weight, source.blocks[3].mlp.fc1.weight)
    check_return(network, images)


def test_a_checkpoint_brings_it_back_without_the_file(saved: Path, tmp_path: Path) -> None:
    copied = tmp_path / "small.pth"
    copied.write_bytes((saved / "small.pth").read_bytes())
    network = TimmBackbone(SMALL, 8, 1, 28, str(copied)).eval()
    copied.unlink()
    assert spec_of(network)["kwargs"]["pretrained"] is False
    check_return(network, torch.randn(2, 1, 28, 28))


def check_return(network: TimmBackbone, images: torch.Tensor) -> None:
    """Check that a checkpoint gives the network again, to the bit."""
    module = ArcFaceModule(network, ArcFaceHead(8, 10), channels_last=False).eval()
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    backbone, _ = rebuild(content, "model.ckpt")
    assert torch.equal(backbone.eval()(images), network(images))


def test_what_differs_from_pretraining_is_one_line_with_flags(saved: Path) -> None:
    network = TimmBackbone(SMALL, 8, 3, 28, str(saved / "small.pth"))
    mean, std = network.trained_on["mean"], network.trained_on["std"]
    facts = {"normalization": ([0.5] * 3, std), "kwargs": {"image_size": 28, "mean": None, "std": None}}
    line = unlike_pretraining(network, facts)
    assert "expect image_size 224, here 28; mean [0.485, 0.456, 0.406], here [0.5, 0.5, 0.5]. To match: " in line
    assert line.endswith('--data.image_size "224" --data.mean "[0.485, 0.456, 0.406]"')
    assert unlike_pretraining(network, {"kwargs": {}}).endswith("--model.backbone.input_size 224")
    enlarged = TimmBackbone(SMALL, 8, 3, 28, str(saved / "small.pth"), input_size=224)
    assert unlike_pretraining(enlarged, {"normalization": (mean, std)}) == ""
    exchanged = {"normalization": (mean, std), "preprocessing": {"channel_order": "bgr"}}
    assert "expect channel_order rgb, here bgr" in unlike_pretraining(enlarged, exchanged)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnt18"}, "name: got 'resnt18'; expected the name of a network of timm. Did you mean resnet18, "),
        ({"name": "resnet18.nothing"}, "Did you mean resnet18"),
        ({"name": "hf-hub:somebody/else"}, "name: got 'hf-hub:somebody/else'; expected the name of a network of timm"),
        ({"embedding_dim": 0}, "embedding_dim: got 0"),
        ({"input_size": 8}, "input_size: got 8; expected image_size (224) to"),
        ({"pretrained": "missing.pth"}, "pretrained: got 'missing.pth'; expected true, false or a file"),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        TimmBackbone(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file", "reason"),
    [
        (SMALL, "part.safetensors", "The file lacks blocks.5.0.conv.weight"),
        ("mobilenetv3_small_075", "small.pth", "size mismatch"),
        ("mobilenetv4_conv_small_035", "small.pth", "size mismatch|lacks"),
    ],
)
def test_a_file_of_another_network_is_refused(
    name: str, file: str, reason: str, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(WeightsError, match=f"expected weights of {name}.*({reason})"):
        TimmBackbone(name, pretrained=str(saved / file))
    assert caplog.text == ""


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple:
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"conv_stem.weight": Code()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="expected weights of mobilenet"):
        TimmBackbone(SMALL, pretrained=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm, which is not installed; pip install 'arcface_pl\[timm\]'"):
        TimmBackbone()


def test_names_from_the_hub_s_pages_are_taken() -> None:
    with torch.device("meta"):
        network = TimmBackbone("timm/resnet18.a1_in1k", 8, 3, 32)
        assert build("backbone", BACKBONES, spec_of(network)).name == "resnet18.a1_in1k"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_command_line_takes_it(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "small.pth"
    weights.write_bytes((saved / "small.pth").read_bytes())
    backbone = [
        "--model.backbone",
        "TimmBackbone",
        "--model.backbone.name",
        SMALL,
        "--model.backbone.pretrained",
        "small.pth",
    ]
    short = ["--max_epochs", "1", "--limit_train_batches", "5", "--enable_progress_bar", "false"]
    main(["fit", *backbone, "--data.dataset", "digits", *short])
    assert "pretrained weights of mobilenetv3_small_050 expect image_size 224, here 28" in capsys.readouterr().out
    weights.unlink()
    main(["test", "--ckpt_path", "last", "--enable_progress_bar", "false"])
    with pytest.raises(SystemExit) as ended:
        main(["export", "last", "--json"])
    assert not ended.value.code
    results = json.loads(next(tmp_path.glob("lightning_logs/*/results.json")).read_text())
    assert results["num_parameters"] > 500_000
