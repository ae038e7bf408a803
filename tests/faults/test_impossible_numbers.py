"""Each number of each file that a model or gallery is read from, a million times too large: refused at once."""

import copy
import hashlib
import json
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, Recognizer
from arcface_pl.backbones import BACKBONES
from arcface_pl.checkpoints.specs import spec_of
from arcface_pl.errors import UserError
from arcface_pl.heads import HEADS
from arcface_pl.preprocessing import Preprocessor
from arcface_pl.recognizer.gallery import MANIFEST as GALLERY
from arcface_pl.recognizer.pretrained import MANIFEST as PRETRAINED

# Nothing is sized by these: they are printed, or used by training alone, which compares them with its own settings
HARMLESS = ("epoch", "global_step", "seed", "batch_size", "num_images", "metrics", "margin_warmup_epochs")
PICTURE = torch.zeros(1, 40, 40, dtype=torch.uint8)
PICTURE[0, 8:30, 18:22] = 255


def numbers(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all numbers."""
    if isinstance(node, int | float) and not isinstance(node, bool):
        yield place
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, value in inner:
        yield from numbers(value, (*place, key))


def grown(content: Any, place: tuple[Any, ...]) -> Any:
    """The content with one number a million times larger; a million for 0."""
    content = copy.deepcopy(content)
    node = content
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = (node[place[-1]] or 1) * 1_000_000
    return content


def check_refused(place: tuple[Any, ...], read: Callable[[], Any], weights: int = 0) -> None:
    """Check that reading a file is refused with its ``weights`` (bytes) in memory twice at most, not for gigabytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if any(name in place for name in HARMLESS):
        read()
    else:
        with pytest.raises(UserError) as caught:
            read()
        assert "\n" not in str(caught.value), place
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (64 << 10) + 2 * weights // 1024, place


@pytest.fixture
def recognizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recognizer:
    """Of a checkpoint with all facts and thresholds, next to a folder and a gallery made from it."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = ArcFaceModule(FastCNN(16, width=4), ArcFaceHead(16, 4))
    facts = {
        "name": "MNISTDataModule",
        "kwargs": {"dataset": "digits", "batch_size": 64},
        "class_names": list("abcd"),
        "seed": 1,
        "normalization": [[0.2], [0.4]],
        "preprocessing": Preprocessor(28, 1, (0.2,), (0.4,), "ink").to_dict(),
    }
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "data": facts}
    torch.save(content, "model.ckpt")
    made = Recognizer.from_checkpoint("model.ckpt")
    generator = torch.Generator().manual_seed(1)
    made.gallery.add("ada", torch.nn.functional.normalize(torch.randn(3, 16, generator=generator), dim=1))
    made.gallery.add("eve", torch.nn.functional.normalize(torch.randn(2, 16, generator=generator), dim=1))
    point = {"threshold": 0.5, "far": 0.1, "tar": 0.9, "eer": 0.1, "num_genuine": 4, "num_impostor": 4}
    calibration = {"far": 0.1, "source": "x", "num_images": 4, "verification": point, "classification": point}
    torch.save(
        {**content, "format_version": 1, "epoch": 3, "global_step": 30, "calibration": calibration}, "model.ckpt"
    )
    loaded = Recognizer.from_checkpoint("model.ckpt")
    loaded.gallery = made.gallery
    loaded.model.metrics = {"val/accuracy": 0.5}
    loaded.save_pretrained("folder")
    loaded.save_gallery("gallery")
    return loaded


@pytest.mark.usefixtures("recognizer")
def test_in_a_checkpoint() -> None:
    content = torch.load("model.ckpt", weights_only=True)
    weights = content.pop("state_dict")
    places = list(numbers(content))
    assert len(places) > 30
    for place in places:
        torch.save({"state_dict": weights, **grown(content, place)}, "grown.ckpt")
        check_refused(place, lambda: Recognizer.from_checkpoint("grown.ckpt").classify(PICTURE))


@pytest.mark.parametrize("name", [*BACKBONES, *HEADS])
def test_in_the_settings_of_every_class(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if name == "TimmBackbone":
        pytest.importorskip("timm")
    backbone = BACKBONES[name](embedding_dim=8, in_channels=1, image_size=28) if name in BACKBONES else FastCNN(8)  # type: ignore[call-arg]
    head = HEADS[name](8, 3) if name in HEADS else ArcFaceHead(8, 3)
    module = ArcFaceModule(backbone, head)
    role, spec = ("backbone", spec_of(backbone)) if name in BACKBONES else ("head", spec_of(head))
    for place in numbers(spec):
        if name in HEADS and place[-1] not in ("embedding_dim", "num_classes", "sub_centers"):
            continue  # margins and rates: any that the class accepts
        content = {"state_dict": module.state_dict(), "hyper_parameters": {**module.hparams, role: grown(spec, place)}}
        file = tmp_path / "grown.ckpt"
        torch.save(content, file)
        check_refused(place, lambda: Recognizer.from_checkpoint(file), file.stat().st_size)  # noqa: B023


@pytest.mark.usefixtures("recognizer")
def test_in_a_pretrained_folder() -> None:
    path = Path("folder/config.json")
    values = PRETRAINED.read(path)
    for place in numbers(values):
        path.write_bytes(PRETRAINED.dump(grown(values, place)))
        check_refused(place, lambda: Recognizer.from_pretrained("folder").classify(PICTURE))


def test_in_a_gallery(recognizer: Recognizer) -> None:
    path = Path("gallery/gallery.json")
    values = GALLERY.read(path)
    for place in numbers(values):
        path.write_bytes(GALLERY.dump(grown(values, place)))
        check_refused(place, lambda: recognizer.load_gallery("gallery"))


def test_in_the_headers_of_safetensors(recognizer: Recognizer) -> None:
    for manifest, path, key, read in (
        (PRETRAINED, Path("folder/config.json"), "weights_sha256", lambda: Recognizer.from_pretrained("folder")),
        (GALLERY, Path("gallery/gallery.json"), "embeddings_sha256", lambda: recognizer.load_gallery("gallery")),
    ):
        values = manifest.read(path)
        tensors = path.with_name(values.get("embeddings", "model.safetensors"))
        assert load_file(tensors)
        whole = tensors.read_bytes()
        (size,) = struct.unpack("<Q", whole[:8])
        header = json.loads(whole[8 : 8 + size])
        headers = [json.dumps(grown(header, place)).encode() for place in numbers(header)]
        contents = [struct.pack("<Q", len(each)) + each + whole[8 + size :] for each in headers]
        contents.append(struct.pack("<Q", size * 1_000_000) + whole[8:])
        for content in contents:
            tensors.write_bytes(content)
            path.write_bytes(manifest.dump({**values, key: hashlib.sha256(content).hexdigest()}))
            check_refused(("header",), read)
