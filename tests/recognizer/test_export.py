import json
from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint
from safetensors.torch import load

from arcface_pl import ArcFaceHead, ArcFaceModule, Recognizer, SimpleCNN
from arcface_pl.backbones import BACKBONES
from arcface_pl.backbones.blocks import BATCH_NORMS
from arcface_pl.cli import main
from arcface_pl.cli.export import _images
from arcface_pl.errors import SettingsError
from arcface_pl.heads import HEADS
from arcface_pl.preprocessing import Preprocessor
from arcface_pl.recognizer import TrainedModel
from arcface_pl.recognizer import exporters as export_room
from arcface_pl.recognizer.deployed import Outputs
from arcface_pl.recognizer.exporters import FORMATS, ExportError, export, make_int8
from arcface_pl.recognizer.exporters import make as make_file
from arcface_pl.recognizer.quantize import measure

pytestmark = pytest.mark.timeout(280)


def make(tmp_path: Path, backbone: torch.nn.Module, head: torch.nn.Module) -> Recognizer:
    torch.manual_seed(0)
    return Recognizer.from_checkpoint(write_checkpoint(tmp_path / "m.ckpt", ArcFaceModule(backbone, head)))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("sub_centers", [1, 3])
def test_every_head(name: str, sub_centers: int, tmp_path: Path, images: torch.Tensor) -> None:
    arguments = {} if sub_centers == 1 or name == "LinearHead" else {"sub_centers": sub_centers}
    model = make(tmp_path, BACKBONES["SimpleCNN"](16), HEADS[name](16, 4, **arguments)).model
    parity = export(model, tmp_path / "m.onnx", "onnx", images)
    assert parity.cosine < 1e-5
    assert parity.same_class == len(images)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone(name: str, tmp_path: Path, images: torch.Tensor) -> None:
    if name == "TimmBackbone":
        pytest.importorskip("timm")
    torch.manual_seed(0)
    backbone = BACKBONES[name](embedding_dim=16, in_channels=1, image_size=28)  # type: ignore[call-arg]
    for module in backbone.modules():
        if isinstance(module, BATCH_NORMS):
            module.momentum = None  # statistics of the next batch: without any, deep networks overflow in evaluation
    backbone(images / 255)
    model = make(tmp_path, backbone, HEADS["ArcFaceHead"](16, 4)).model
    assert export(model, tmp_path / "m.onnx", "onnx", images).cosine < 1e-5
    assert [each.name for each in tmp_path.iterdir() if each.suffix != ".ckpt"] == ["m.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_keeps_what_the_model_gives(
    file_format: str, recognizer: Recognizer, tmp_path: Path, images: torch.Tensor
) -> None:
    parity = export(recognizer.model, tmp_path / "file", file_format, images)
    assert parity.num_images == parity.same_class == len(images)
    assert parity.cosine < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_file_alone_with_numpy(batch: int, recognizer: Recognizer, tmp_path: Path, images: torch.Tensor) -> None:
    import onnxruntime

    labels = [f"class {index % 4}" for index in range(12)]
    recognizer.calibrate(images, labels, far=0.25, source="mine", framed=True)
    export(recognizer.model, tmp_path / "m.onnx", "onnx", images)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    meta = session.get_modelmeta().custom_metadata_map
    embedding, cosine, logits = session.run(None, {"pixels": images[:batch].numpy()})
    torch.testing.assert_close(
        torch.from_numpy(embedding), recognizer.embed(images[:batch], framed=True), rtol=0, atol=1e-6
    )
    names, threshold = json.loads(meta["class_names"]), float(meta["threshold_classification"])
    assert threshold == recognizer.thresholds.classification
    expected = recognizer.classify(images[:batch], framed=True)
    assert [names[row.argmax()] for row in logits] == [answer.name for answer in expected]
    assert [bool(row.max() < threshold) for row in cosine] == [answer.unknown for answer in expected]
    assert (json.loads(meta["mean"]), json.loads(meta["std"])) == ([0.2], [0.4])


def test_a_file_that_differs_is_not_kept(
    recognizer: Recognizer, tmp_path: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = export_room.to_tensors

    def other(model: object) -> dict[str, torch.Tensor]:
        return {key: value + 1e-3 for key, value in tensors(model).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(export_room, "to_tensors", other)
    (tmp_path / "m").write_text("the old one")
    with pytest.raises(ExportError, match="not written"):
        export(recognizer.model, tmp_path / "m", "safetensors", images)
    assert (tmp_path / "m").read_text() == "the old one"


class OwnNet(torch.nn.Module):
    in_channels, image_size = 1, 28

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28, 8))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


class OwnHead(HEADS["ArcFaceHead"]):  # type: ignore[misc]
    pass


@pytest.mark.parametrize("head", [HEADS["ArcFaceHead"], OwnHead])
def test_weights_of_ones_own_network_are_compared_too(
    head: type, tmp_path: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    path = write_checkpoint(tmp_path / "m.ckpt", ArcFaceModule(OwnNet(), head(8, 4)))
    model = Recognizer.from_checkpoint(path, backbone=OwnNet(), head=head(8, 4)).model
    content, parity = make_file(model, "safetensors", images)
    assert load(content)["backbone.layers.1.weight"].equal(model.backbone.layers[1].weight)
    assert parity.cosine == 0
    tensors = export_room.to_tensors(model)
    changed = {name: value.roll(1, 0) if name.startswith("backbone") else value for name, value in tensors.items()}
    monkeypatch.setattr(export_room, "to_tensors", lambda model: changed)
    with pytest.raises(ExportError, match="not written"):
        make_file(model, "safetensors", images)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 21, 24])
def test_every_opset_is_the_one_in_the_file(opset: int, recognizer: Recognizer, images: torch.Tensor) -> None:
    import onnx

    content, parity = make_file(recognizer.model, "onnx", images, opset=opset)
    assert [each.version for each in onnx.load_from_string(content).opset_import if not each.domain] == [opset]
    assert parity.cosine < 1e-5


@pytest.mark.slow
def test_int8_is_smaller_near_and_keeps_the_metadata(
    recognizer: Recognizer, tmp_path: Path, images: torch.Tensor
) -> None:
    import onnxruntime

    content, _ = make_file(recognizer.model, "onnx", images)
    labels = recognizer.class_scores(images, framed=True).argmax(1)
    labels[0] = (labels[0] + 1) % 4
    made, loss = make_int8(recognizer.model, content, images, images, labels)
    assert len(made) < 0.4 * len(content)
    assert loss.least_cosine <= loss.mean_cosine <= 1
    assert loss.mean_cosine > 0.99
    assert loss.accuracy is not None
    assert loss.accuracy[0] == pytest.approx(11 / 12)
    sessions = [onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"]) for each in (content, made)]
    before, after = (session.get_modelmeta().custom_metadata_map for session in sessions)
    assert before == after
    rows = [
        torch.from_numpy(session.run(["embedding"], {"pixels": images.numpy()})[0]).double() for session in sessions
    ]
    assert float((rows[0] * rows[1]).sum(1).mean()) == pytest.approx(loss.mean_cosine, abs=1e-6)


def test_int8_that_is_of_no_use_is_refused() -> None:
    unit = torch.nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    right = Outputs(unit, unit, unit)
    assert measure(right, right, None) == (6, pytest.approx(1), pytest.approx(1), 6, None)
    for wrong in (unit.flip(0), unit * torch.nan):
        with pytest.raises(ExportError, match="in int8 have a mean cosine of"):
            measure(right, Outputs(wrong, wrong, wrong), None)


def test_int8_scales_of_other_pictures_are_refused() -> None:
    model = TrainedModel(SimpleCNN(16), ArcFaceHead(16, 2), Preprocessor(28, 1, (0.2,), (0.4,)), ["cat", "dog"])
    with pytest.raises(SettingsError, match=r"^--images: got none.*; expected pictures of your own"):
        _images(model, None, step=2)
    assert _images(model, None)[1] == "scikit-learn's digits; --images compares on your own"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--opset", "17"], "--opset: got 17; expected 18 to 24"),
        (["--opset", "18", "--format", "torch"], "--opset: got 18; expected no such flag with this format"),
        (["--quantize", "int8", "--format", "safetensors"], "--quantize: got 'int8'; expected no such flag"),
    ],
)
def test_a_wrong_flag_is_one_line(words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = tmp_path / "unread.ckpt"
    model.touch()
    with pytest.raises(SystemExit):
        main(["export", str(model), *words])
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
