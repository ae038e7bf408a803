"""ONNX files of others: embeddings against the file's formula in numpy, and what is asked for or refused."""

import io
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from arcface_pl import Recognizer
from arcface_pl.cli import main
from arcface_pl.errors import ExportError, UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIZE = 8
HOW = {"mean": 127.5, "std": 128.0, "channel_order": "rgb"}


def write_onnx(path: Path, shape: list[Any], *, stale: bool = False, outputs: int = 1, width: int = 5) -> np.ndarray:
    """Write a network that flattens its input and multiplies it by the matrix that is returned."""
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(3 * SIZE * SIZE, width)).astype(np.float32)
    inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)]
    if stale:  # one that no node reads, and a weight that is an input as well
        inputs.append(helper.make_tensor_value_info("left_behind", TensorProto.FLOAT, [3, 3]))
        inputs.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, weight.shape))
    nodes = [helper.make_node("Flatten", ["data"], ["flat"])]
    names = [f"out{number}" for number in range(outputs)]
    nodes += [helper.make_node("MatMul", ["flat", "weight"], [name]) for name in names]
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [shape[0], width]) for name in names]
    graph = helper.make_graph(nodes, "test", inputs, found, [numpy_helper.from_array(weight, "weight")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return weight


def pictures(count: int = 7) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("at_once", ["batch", 1, 4])
def test_embeddings_are_those_of_the_file(tmp_path: Path, at_once: Any, stale: bool) -> None:
    images, mean, std = pictures(), np.array([100.0, 120.0, 140.0]), np.array([50.0, 60.0, 70.0])
    for layout, order, fixed in itertools.product(("nchw", "nhwc"), ("rgb", "bgr"), (True, False)):
        sides = [SIZE, SIZE] if fixed else ["height", "width"]
        weight = write_onnx(
            tmp_path / "a.onnx", [at_once, 3, *sides] if layout == "nchw" else [at_once, *sides, 3], stale=stale
        )
        ordered = images[..., ::-1] if order == "bgr" else images  # mean and std are in the network's order
        values = (ordered.astype(np.float64) - mean) / std
        values = values.transpose(0, 3, 1, 2) if layout == "nchw" else values
        more = {} if fixed else {"image_size": SIZE, "layout": layout}
        how = {"mean": mean.tolist(), "std": std.tolist(), "channel_order": order, **more}
        recognizer = Recognizer.from_onnx(tmp_path / "a.onnx", **how)
        wanted = unit(values.reshape(len(images), -1) @ weight)
        np.testing.assert_allclose(recognizer.embed(images).numpy(), wanted, atol=1e-5)


def test_what_it_does_without_classes(tmp_path: Path) -> None:
    write_onnx(tmp_path / "a.onnx", ["batch", 3, SIZE, SIZE])
    recognizer = Recognizer.from_onnx(tmp_path / "a.onnx", **HOW)
    images = pictures()
    recognizer.enroll("ann", images[:2])
    recognizer.enroll("bob", images[2:3])
    assert recognizer.identify(images[2])[0].name == "bob"
    assert recognizer.verify(images[0], images[0]).cosine == pytest.approx(1)
    recognizer.save_gallery(tmp_path / "gallery")
    again = Recognizer.from_onnx(tmp_path / "a.onnx", **HOW)
    again.load_gallery(tmp_path / "gallery")
    assert again.names == ["ann", "bob"]
    for change in ({"channel_order": "bgr"}, {"std": 127.5}):
        with pytest.raises(UserError, match="made by another model"):
            Recognizer.from_onnx(tmp_path / "a.onnx", **{**HOW, **change}).load_gallery(tmp_path / "gallery")
    assert recognizer.class_scores(images).shape == (7, 0)
    with pytest.raises(UserError, match="has no trained classes: enroll names"):
        recognizer.classify(images)
    with pytest.raises(UserError, match="ONNX"):
        recognizer.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("shape", "given", "message"),
    [
        (
            [1, 3, 8, 8],
            {},
            r"mean, std, channel_order: got None; .*give --onnx\.mean, --onnx\.std, --onnx\.channel_order",
        ),
        ([1, 3, 8, 8], {"mean": 0, "std": 1}, r"a\.onnx: channel_order: got None; .*write .*a\.yaml"),
        ([1, 3, 8, 8], {**HOW, "mean": 0, "std": 0.5}, r"onnx\.std: got 0\.5; .*on a scale of 0 to 1 times 255"),
        ([1, 3, 8, 8], {**HOW, "mean": [0.5, 0.4, 0.4]}, r"onnx\.mean: got \[0\.5, .*on a scale of 0 to 1 times 255"),
        ([1, 3, 8, 8], {**HOW, "mean": [1, 2]}, r"onnx\.mean: got \[1, 2\]; expected a number, or 3, from 0"),
        ([1, 3, 8, 8], {**HOW, "std": 0}, r"onnx\.std: got 0; expected a number, or 3, from 1"),
        ([1, 3, 8, 8], {**HOW, "std": "wide"}, r"onnx\.std: got 'wide'"),
        ([1, 3, 8, 8], {**HOW, "std": float("nan")}, r"onnx\.std: got nan"),
        (
            [1, 3, 8, 8],
            {**HOW, "channel_order": "RGB"},
            r"onnx\.channel_order: got 'RGB'; expected one of 'rgb', 'bgr'",
        ),
        ([1, 3, 8, 8], {**HOW, "channel_order": "gray"}, r"square images with 1 channels, since channel_order is gray"),
        ([1, 3, 8, 8], {**HOW, "layout": "nhwc"}, r"onnx\.layout: got 'nhwc'; expected nchw"),
        ([1, 3, 8, 8], {**HOW, "image_size": 16}, r"onnx\.image_size: got 16; expected 8, the size of the input"),
        ([1, 3, 8, 8], {**HOW, "image_size": 0}, r"onnx\.image_size: got 0; expected pixels"),
        ([1, 3, 4, 16], HOW, r"input: got 'shape \[1, 3, 4, 16\]'; expected square images"),
        ([1, 3, "h", "w"], {**HOW, "layout": "nchw"}, r"onnx\.image_size: got None; expected pixels, since the input"),
        (["n", "c", "h", "w"], HOW, r"onnx\.layout: got None; expected nchw or nhwc, .* Give --onnx\.layout"),
        ([1, 192], HOW, r"input: got 'shape \[1, 192\]'; expected \(batch, channels, height, width\)"),
        ([1, 3, "h", "w"], {**HOW, "layout": "nchw", "image_size": 9}, r"a\.onnx: it does not run \("),
    ],
)
def test_it_asks_and_refuses(tmp_path: Path, shape: list[Any], given: dict[str, Any], message: str) -> None:
    write_onnx(tmp_path / "a.onnx", shape)
    with pytest.raises(ExportError, match=message) as caught:
        Recognizer.from_onnx(tmp_path / "a.onnx", **given)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    write_onnx(tmp_path / "two.onnx", [1, 3, SIZE, SIZE], outputs=2)
    (tmp_path / "text.onnx").write_text("no network")
    for name, message in {
        "two": r"outputs: got 'out0 tensor\(float\), out1 tensor\(float\)'; expected one output",
        "text": "it is no ONNX file that runs",
        "none": "there is no such file",
    }.items():
        with pytest.raises(ExportError, match=message):
            Recognizer.from_onnx(tmp_path / f"{name}.onnx", **HOW)
    with pytest.raises(TypeError, match="settings: got 'size'; expected one of mean, std"):
        Recognizer.from_onnx(tmp_path / "two.onnx", size=8)


def test_a_yaml_file_beside_it(tmp_path: Path) -> None:
    write_onnx(tmp_path / "a.onnx", [1, 3, SIZE, SIZE])
    place = tmp_path / "a.yaml"
    place.write_text("mean: [127.5, 127.5, 127.5]\nstd: 128\nchannel_order: bgr\n")
    read = Recognizer.from_onnx(tmp_path / "a.onnx").model.preprocessor
    assert (read.mean, read.std, read.channel_order) == ((0.5,) * 3, (128 / 255,) * 3, "bgr")
    assert Recognizer.from_onnx(tmp_path / "a.onnx", channel_order="rgb").model.preprocessor.channel_order == "rgb"
    for content, message in (("size: 3\n", "got 'size'; expected the keys mean"), ("- 1", "got 'list'"), ("{", "read")):
        place.write_text(content)
        with pytest.raises(ExportError, match=message):
            Recognizer.from_onnx(tmp_path / "a.onnx")


def command(*words: Any) -> Any:
    with pytest.raises(SystemExit) as caught:
        main([*map(str, words)])
    return caught.value.code


def test_the_commands_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Thresholded on folders, enrolled, measured on pairs, and embedded, as a checkpoint is."""
    monkeypatch.chdir(tmp_path)
    write_onnx(tmp_path / "net.onnx", [1, 3, SIZE, SIZE], stale=True)
    contents = []
    for person in range(4):
        base = np.random.default_rng(person).integers(0, 200, (SIZE, SIZE, 3))
        for number in range(5):
            noise = np.random.default_rng(100 + 10 * person + number).integers(0, 56, (SIZE, SIZE, 3))
            file = io.BytesIO()
            Image.fromarray((base + noise).astype(np.uint8)).save(file, "PNG")
            contents.append(file.getvalue())
            path = tmp_path / "people" / f"p{person}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[-1])
    flags = ["--onnx.mean", "127.5", "--onnx.std=128", "--onnx.channel_order", "rgb"]
    assert command("recognize", "calibrate", "net.onnx", "people", "--far", "0.05", *flags) == 0
    stored = json.loads((tmp_path / "net.thresholds.json").read_text())["verification"]["threshold"]
    assert Recognizer.from_onnx("net.onnx", **HOW).thresholds.verification == stored
    assert command("recognize", "enroll", "net.onnx", "people/p0", "people/p1", *flags) == 0
    capsys.readouterr()
    assert command("recognize", "identify", "net.onnx", "people/p1/4.png", "--json", *flags) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "p1"
    order = [n for pair in range(10) for n in ((2 * pair, 2 * pair + 1) if pair % 2 else (pair, 19 - pair))]
    same = [first // 5 == second // 5 for first, second in zip(order[::2], order[1::2], strict=True)]
    (tmp_path / "own.bin").write_bytes(pickle.dumps(([contents[n] for n in order], same)))
    assert command("evaluate", "net.onnx", "--pairs", "own.bin", "--json", "own.json", *flags) is None
    assert "[own]XNorm" in capsys.readouterr().out
    found = json.loads((tmp_path / "own.json").read_text())
    assert set(found["unseen"]) >= {"pairs", "insightface"}
    folder = ["--data", "ImageFolderDataModule", "--data.root", "people", "--data.num_workers", 0]
    assert command("evaluate", "net.onnx", *folder, "--json", "folder.json", *flags) is None
    assert "classification" not in json.loads((tmp_path / "folder.json").read_text())["unseen"]
    assert command("inspect", "net.onnx", *folder, "--images", 0, "--output", "audit", *flags) in (0, None)
    audited = json.loads((tmp_path / "audit" / "labels.json").read_text())
    assert audited["num_images"] == 20  # centers are means of each person's images
    assert command("embed", "net.onnx", "people", "--output", "people.npz", *flags) in (0, None)
    with np.load("people.npz") as embedded:
        wanted = Recognizer.from_onnx("net.onnx", **HOW).embed(contents)
        assert torch.equal(torch.from_numpy(embedded["embeddings"]), wanted)
    for words, message in {
        ("evaluate", "net.onnx", "--pairs", "own.bin"): "mean, std, channel_order: got None",
        ("evaluate", "net.onnx", *flags): "expected a data module and its settings",
        ("predict", "net.onnx", "people", *flags): "has no trained classes",
        ("export", "net.onnx", "--output", "x.onnx", *flags): "this is an ONNX file already",
        ("recognize", "list", "net.onnx", "--onnx.size", "8"): "--onnx.size: got '8'; expected --onnx. and one of mean",
        (
            "recognize",
            "list",
            "people",
            "--onnx.mean",
            "8",
        ): "--onnx.mean: got 'people'; expected a model that is an ONNX",
    }.items():
        assert command(*words) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
