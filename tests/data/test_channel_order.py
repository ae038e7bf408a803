"""``channel_order: bgr``: the network sees exchanged channels, in every form of an image and in every command."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from faces import write_faces
from PIL import Image
from tiny_runs import QUIET
from torch import Tensor

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, ImageFolderDataModule, MNISTDataModule, Recognizer
from arcface_pl.callbacks import EmbeddingProjector
from arcface_pl.callbacks.outputs import images_of
from arcface_pl.cli import main
from arcface_pl.data import OmniglotDataModule
from arcface_pl.evaluation.audit import AuditedImages
from arcface_pl.preprocessing import Preprocessor, in_order, normalize_images
from arcface_pl.recognizer import TrainedModel
from arcface_pl.recognizer.deployed import DeployedModel
from arcface_pl.recognizer.exporters import export

MEAN, STD = (0.2, 0.4, 0.6), (0.3, 0.5, 0.7)
SIZE = 16


def model(order: str) -> TrainedModel:
    """The same weights for either order of the channels."""
    torch.manual_seed(0)
    to_input = Preprocessor(SIZE, 3, MEAN, STD, channel_order=order)  # type: ignore[arg-type]
    return TrainedModel(FastCNN(8, 3, SIZE, width=4), ArcFaceHead(8, 3), to_input, list("abc"))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 18, 3), dtype=np.uint8)


def by_hand(pixels: np.ndarray) -> Tensor:
    """Frame an RGB image, normalize it, and exchange its first and third channel."""
    framed = Preprocessor(SIZE, 3, MEAN, STD).frame(torch.from_numpy(pixels).permute(2, 0, 1))
    rgb = (framed.float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return rgb[[2, 1, 0]]


def test_the_channels_are_exchanged_after_normalizing(pixels: np.ndarray) -> None:
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    found = model("bgr").preprocessor(image)
    torch.testing.assert_close(found, by_hand(pixels), rtol=0, atol=1e-6)
    batch = image[None]
    assert normalize_images(batch, MEAN, STD, "bgr").equal(normalize_images(batch, MEAN, STD)[:, [2, 1, 0]])
    assert in_order(in_order(batch, "bgr"), "bgr").equal(batch)


@pytest.mark.parametrize(
    "form",
    [
        lambda pixels, path: path,
        lambda pixels, path: path.read_bytes(),
        lambda pixels, path: Image.fromarray(pixels),
        lambda pixels, path: pixels,
        lambda pixels, path: pixels / 255,
        lambda pixels, path: torch.from_numpy(pixels).permute(2, 0, 1),
        lambda pixels, path: [pixels],
        lambda pixels, path: pixels[None],
    ],
)
def test_every_form_of_a_picture(pixels: np.ndarray, tmp_path: Path, form: Callable[..., Any]) -> None:
    Image.fromarray(pixels).save(tmp_path / "one.png")
    found = Recognizer(model("bgr")).embed(form(pixels, tmp_path / "one.png"))
    backbone = model("rgb").backbone
    expected = torch.nn.functional.normalize(backbone(by_hand(pixels)[None]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(found, Recognizer(model("rgb")).embed(pixels), atol=1e-3)


def test_framed_pixels_and_the_exported_network_take_rgb(pixels: np.ndarray) -> None:
    bgr = model("bgr")
    framed = bgr.preprocessor.frame(torch.from_numpy(pixels).permute(2, 0, 1))[None]
    expected = Recognizer(bgr).embed(pixels)
    torch.testing.assert_close(Recognizer(bgr).embed(framed, framed=True), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(DeployedModel(bgr)(framed)[0], expected, rtol=0, atol=1e-6)


def test_it_is_saved_and_belongs_to_the_fingerprint(tmp_path: Path) -> None:
    Recognizer(model("bgr")).save_pretrained(tmp_path / "bgr")
    assert json.loads((tmp_path / "bgr" / "config.json").read_text())["preprocessing"]["channel_order"] == "bgr"
    assert Recognizer.from_pretrained(tmp_path / "bgr").model.preprocessor == model("bgr").preprocessor
    assert "channel_order" not in model("rgb").preprocessor.to_dict()  # galleries of earlier releases still fit
    assert "sees BGR" in (tmp_path / "bgr" / "README.md").read_text()
    assert model("bgr").fingerprint != model("rgb").fingerprint


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_onnx_file_takes_rgb_and_notes_the_order(pixels: np.ndarray, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    bgr = model("bgr")
    framed = bgr.preprocessor.frame(torch.from_numpy(pixels).permute(2, 0, 1))[None]
    export(bgr, tmp_path / "bgr.onnx", "onnx", framed)
    session = onnxruntime.InferenceSession(tmp_path / "bgr.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert about["channel_order"] == "bgr"
    assert "red, green, blue" in about["input"]
    embedding = session.run(["embedding"], {"pixels": framed.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(embedding), Recognizer(bgr).embed(pixels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("resident", [True, False])
def test_batches_of_files_in_memory_or_not(tmp_path: Path, resident: bool) -> None:
    write_faces(tmp_path, people=3, pictures=4, size=20)
    batches = {}
    for order in ("rgb", "bgr"):
        data = ImageFolderDataModule(str(tmp_path), image_size=SIZE, resident=resident, channel_order=order, seed=0)
        data.setup("fit")
        assert data.preprocessing.get("channel_order", "rgb") == order
        batches[order] = [*data.train_dataloader(), *data.test_dataloader()]
    for (rgb, labels), (bgr, same_labels) in zip(batches["rgb"], batches["bgr"], strict=True):
        assert bgr.equal(rgb[:, [2, 1, 0]])  # augmentation included, which knows luma by RGB
        assert labels.equal(same_labels)


def test_images_are_shown_in_rgb(tmp_path: Path) -> None:
    write_faces(tmp_path, people=3, pictures=4, size=20)
    shown = []
    for order in ("rgb", "bgr"):
        data = ImageFolderDataModule(str(tmp_path), image_size=SIZE, channel_order=order, seed=0)
        data.setup("fit")
        audited = AuditedImages.of(data, ["train"])
        shown.append(audited.images([0, 2]))
        batch = next(iter(data.val_dataloader()))
        trainer = SimpleNamespace(datamodule=data)
        shown.append(images_of(EmbeddingProjector(), trainer, batch, len(batch[1])))  # type: ignore[arg-type]
    assert shown[0].equal(shown[2])
    assert shown[1].equal(shown[3])


def test_a_resumed_run_keeps_it(tmp_path: Path) -> None:
    write_faces(tmp_path, people=3, pictures=4, size=20)
    states = [
        ImageFolderDataModule(str(tmp_path), image_size=SIZE, channel_order=order, mean=[0.5] * 3, std=[0.5] * 3)
        for order in ("rgb", "bgr")
    ]
    assert [data.state_dict()["channel_order"] for data in states] == [None, "bgr"]


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("form", ["folder", "model.safetensors", "model.ckpt"])
def test_a_backbone_trained_in_another_order_is_said(
    order: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """By a run that starts from its weights, with both orders; nothing where they agree."""
    write_faces(tmp_path / "faces", people=3, pictures=4, size=20)
    trained, source = model("bgr"), tmp_path / form
    if form == "folder":
        Recognizer(trained).save_pretrained(source)
    elif form == "model.safetensors":
        export(trained, source, "safetensors", torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8))
    else:
        trainer = L.Trainer(**QUIET)
        trainer.strategy.connect(module := ArcFaceModule(trained.backbone, trained.head))
        module.data_facts = {"preprocessing": trained.preprocessor.to_dict()}
        trainer.save_checkpoint(source)
    data = ImageFolderDataModule(str(tmp_path / "faces"), image_size=SIZE, channel_order=order)  # type: ignore[arg-type]
    module = ArcFaceModule(FastCNN(8, 3, SIZE, width=4), ArcFaceHead(8, 3), init_from=str(source))
    L.Trainer(**{**QUIET, "max_epochs": 0}).fit(module, datamodule=data)
    said = f"data.channel_order: {source} was trained in bgr, this run has rgb. To match: --data.channel_order bgr\n"
    assert (said in capsys.readouterr().out) == (order == "rgb")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"channel_order": "bgr", "in_channels": 1},
            "channel_order: got 'bgr'; expected rgb, since the images are gray",
        ),
        ({"channel_order": "brg"}, "channel_order: got 'brg'; expected one of 'rgb', 'bgr'"),
    ],
)
def test_impossible_orders_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolderDataModule(str(tmp_path), **settings)
    channels = settings.get("in_channels", 3)
    with pytest.raises(ValueError, match=message):
        Preprocessor(28, channels, (0.5,) * channels, (0.5,) * channels, channel_order=settings["channel_order"])
    for cls in (MNISTDataModule, OmniglotDataModule):
        with pytest.raises(ValueError, match="the images are gray"):
            cls(channel_order="bgr")


def fit(folder: Path, *flags: str) -> Path:
    quick = ["--max_epochs", "1", "--enable_progress_bar", "false", "--accelerator", "cpu", "--data.num_workers", "0"]
    quick += ["--data", "ImageFolderDataModule", "--data.root", "faces", "--data.image_size", "20"]
    quick += ["--data.augment", "false", "--data.batch_size", "16", "--trainer.num_sanity_val_steps", "0"]
    quick += ["--data.val_fraction", "0.3", "--data.test_fraction", "0.2", "--precision", "32-true"]
    main(["fit", *quick, "--model.backbone", "FastCNN", "--default_root_dir", str(folder), *flags])
    return folder / "lightning_logs/version_0/checkpoints/last.ckpt"


@pytest.mark.slow
def test_every_command_sees_exchanged_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A BGR run on images is an RGB run on images with exchanged channels: weights, scores and answers are equal."""
    monkeypatch.chdir(tmp_path)
    for place in ("straight", "exchanged"):
        (tmp_path / place).mkdir()
        write_faces(tmp_path / place / "faces", people=6, pictures=8, size=20, suffix="png")
    for path in (tmp_path / "exchanged").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path))[..., ::-1].copy()).save(path)
    answers: dict[str, list[Any]] = {}
    for place, flags in (("straight", ["--data.channel_order", "bgr"]), ("exchanged", [])):
        monkeypatch.chdir(tmp_path / place)
        checkpoint = str(fit(Path(), *flags))
        module = ArcFaceModule.load_from_checkpoint(checkpoint)
        found: list[Any] = [{name: each.tolist() for name, each in module.state_dict().items()}]
        run = Path("lightning_logs/version_0")
        main(["test", "--ckpt_path", checkpoint, "--accelerator", "cpu", "--data.num_workers", "0"])
        found.append(json.loads((run / "test.json").read_text())["test/loss"])
        for words in (["evaluate", checkpoint, "--json", "scores.json", "--flip"], ["embed", checkpoint, "faces"]):
            with pytest.raises(SystemExit):
                main(words)
        found.append(json.loads(Path("scores.json").read_text())["trained"])
        with np.load("embeddings.npz") as file:
            found.append(file["embeddings"].tolist())
        for words in (
            ["predict", checkpoint, "faces", "--json"],
            ["recognize", "enroll", checkpoint, "faces", "--json"],
            ["recognize", "identify", checkpoint, "faces", "--json"],
        ):
            capsys.readouterr()
            with pytest.raises(SystemExit):
                main(words)
            found.append(json.loads(capsys.readouterr().out))
        answers[place] = found
    for one, other in zip(*answers.values(), strict=True):
        assert one == other
