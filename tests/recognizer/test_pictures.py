"""One picture in every form: one answer."""

import io
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint
from PIL import Image

from arcface_pl import ArcFaceHead, ArcFaceModule, Recognizer, SimpleCNN
from arcface_pl.preprocessing import ImageError, Preprocessor
from arcface_pl.recognizer.pictures import frame


def make(folder: Path, channels: int = 1, style: str = "picture", white_level: float | None = None) -> Recognizer:
    torch.manual_seed(0)
    module = ArcFaceModule(SimpleCNN(16, in_channels=channels), ArcFaceHead(16, 4))
    recognizer = Recognizer.from_checkpoint(write_checkpoint(folder / "model.ckpt", module), backbone=module.backbone)
    mean, std = (0.2,) * channels, (0.4,) * channels
    recognizer.model.preprocessor = Preprocessor(28, channels, mean, std, style, white_level=white_level)  # type: ignore[arg-type]
    return recognizer


@pytest.fixture(autouse=True)
def facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoints here have no normalization of a channel count of their own."""
    import checkpoints

    def write(path: Path, module: ArcFaceModule) -> Path:
        content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
        torch.save(content, path)
        return path

    monkeypatch.setattr(checkpoints, "write_checkpoint", write)
    monkeypatch.setitem(globals(), "write_checkpoint", write)


def drawing() -> np.ndarray:
    """A bar on black at the network's size, (28, 28) uint8."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 11:16] = np.random.default_rng(0).integers(100, 256, (20, 5))
    return pixels


def noise(height: int, width: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def forms(pixels: np.ndarray, folder: Path) -> dict[str, Any]:
    """A picture (H, W, C) uint8 in every form."""
    content, path = png(pixels), folder / "picture.png"
    path.write_bytes(content)
    first, tensor = pixels.transpose(2, 0, 1), torch.from_numpy(pixels)
    found = {
        "path": path,
        "text": str(path),
        "bytes": content,
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
        "stream": io.BytesIO(content),
        "file": path.open("rb"),
        "PIL": Image.open(io.BytesIO(content)),
        "HWC": pixels,
        "CHW": first,
        "NHWC": pixels[None],
        "NCHW": first[None],
        "strided": np.repeat(pixels, 2, axis=0)[::2],
        "float32": pixels.astype(np.float32) / 255,
        "float64": first / 255.0,
        "uint16": pixels.astype(np.uint16) * 257,
        "big-endian": (pixels.astype(np.uint16) * 257).astype(">u2"),
        "tensor HWC": tensor,
        "tensor CHW": tensor.permute(2, 0, 1),
        "tensor NCHW": tensor.permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last),
        "tensor float": (tensor.double() / 255).requires_grad_(),
        "tensor uint16": torch.from_numpy(pixels.astype(np.uint16) * 257),
    }
    if pixels.shape[2] == 1:
        found |= {"HW": pixels[..., 0], "tensor HW": tensor[..., 0], "float HW": (pixels[..., 0] / 255.0)}
        deep = io.BytesIO()
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(deep, "PNG")
        found["16-bit PNG"] = deep.getvalue()
    return found


@pytest.mark.parametrize("style", ["ink", "object", "picture"])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("kind", ["the network's size", "gray", "gray for color", "color", "color for gray"])
def test_every_form_gives_the_answer_of_the_file(kind: str, inverted: bool, style: str, tmp_path: Path) -> None:
    pixels = noise(40, 31, 1 if kind.startswith("gray") else 3)
    if kind == "the network's size" or style == "ink":
        pixels = np.repeat(drawing()[..., None], pixels.shape[2] if style == "ink" else 1, axis=2)
    pixels = 255 - pixels if inverted else pixels
    recognizer = make(tmp_path, 3 if kind in ("gray for color", "color") and style != "ink" else 1, style)
    given = forms(pixels, tmp_path)
    expected = recognizer.embed(tmp_path / "picture.png")
    assert expected.shape == (1, 16)
    for name, picture in given.items():
        assert recognizer.embed(picture).equal(expected), name
    for single in ("stream", "file"):
        given[single].seek(0)
    rows = recognizer.embed(list(given.values()))
    given["file"].close()
    # In a batch the last bits may depend on the row: some kernels compute a product's last rows apart
    torch.testing.assert_close(rows, expected.expand_as(rows), rtol=0, atol=1e-6)


def test_bool_is_black_and_white(tmp_path: Path) -> None:
    recognizer = make(tmp_path)
    mask = noise(30, 30)[..., 0] > 127
    assert recognizer.embed(mask).equal(recognizer.embed(mask.astype(np.uint8) * 255))
    assert recognizer.embed(torch.from_numpy(mask)).equal(recognizer.embed(mask))


def test_opacity_is_that_of_a_file(tmp_path: Path) -> None:
    recognizer = make(tmp_path)
    pixels = noise(30, 30, 4)
    assert recognizer.embed(pixels).equal(recognizer.embed(png(pixels)))


def test_one_bright_pixel_does_not_change_the_scale(tmp_path: Path) -> None:
    recognizer = make(tmp_path)
    pixels = noise(30, 30)[..., 0] / 255.0
    pixels[3, 3] = 1.0
    brighter = pixels.copy()
    brighter[3, 3] = 1.7
    assert recognizer.embed(brighter).equal(recognizer.embed(pixels))


def test_several_are_batched_and_keep_their_order(tmp_path: Path) -> None:
    recognizer = make(tmp_path)
    many = np.random.default_rng(2).integers(0, 256, (300, 1, 30, 30), dtype=np.uint8)
    expected = torch.cat([recognizer.embed(each) for each in many])
    for given in (
        many,
        many.transpose(0, 2, 3, 1),
        list(many),
        iter(many),
        (each for each in many),
        many[:, 0, :, :, None],
    ):
        torch.testing.assert_close(recognizer.embed(given), expected, rtol=0, atol=1e-6)
    assert len(recognizer.classify(torch.from_numpy(many))) == 300
    assert recognizer.embed([]).shape == (0, 16)
    assert recognizer.embed(many[:0]).shape == (0, 16)
    assert recognizer.classify([]) == []


AMBIGUOUS = [(3, 28, 3), (1, 28, 1), (3, 28, 4), (5, 3, 28, 3), (2, 1, 9, 1)]
WRONG = [(12, 28, 28), (4, 28, 28), (28,), (), (1, 1, 1, 28, 28), (0, 28), (28, 28, 0), (2, 28, 28, 2)]


@pytest.mark.parametrize("shape", AMBIGUOUS)
def test_a_shape_with_two_readings_is_refused_with_both(shape: tuple[int, ...], tmp_path: Path) -> None:
    for picture in (np.zeros(shape, np.uint8), torch.zeros(shape, dtype=torch.uint8)):
        with pytest.raises(ImageError, match=r"picture: got 'shape .*\(C, H, W\), \d channels of .*\(H, W, C\), \d"):
            make(tmp_path).embed(picture)


@pytest.mark.parametrize("shape", WRONG)
def test_a_shape_that_is_no_picture_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"picture: got 'shape .*; expected \(H, W\), \(H, W, C\)"):
        make(tmp_path).embed(np.zeros(shape, np.uint8))


NOT_A_PICTURE: list[tuple[Any, str]] = [
    (np.zeros((9, 9), np.int64), "got 'int64'; expected uint8"),
    (torch.zeros(9, 9, dtype=torch.int32), "got 'int32'; expected uint8"),
    (np.full((9, 9), 128.0), "pixel values around 128, outside 0 (black) to 1 (white)"),
    (drawing() * 1.0, "outside 0 (black) to 1 (white)"),
    (np.full((9, 9), np.nan), "not finite"),
    (b"", "the file is empty"),
    (b"no picture", "not an image"),
    (io.StringIO("text"), "a file opened for text"),
    ("nowhere.png", "there is no such file"),
    ("null\0.png", "there is no such file"),
    (5, "got 'int'; expected a path, bytes"),
    (None, "got 'NoneType'; expected a path, bytes"),
    ({"a": 1}, "got 'dict'; expected a path, bytes"),
]


@pytest.mark.parametrize("place", range(len(NOT_A_PICTURE)))
def test_what_cannot_be_read_is_an_error_in_its_place(place: int, tmp_path: Path) -> None:
    recognizer = make(tmp_path)
    wrong, message = NOT_A_PICTURE[place]
    with pytest.raises(ImageError) as caught:
        recognizer.classify(wrong)
    assert message in str(caught.value)
    good = drawing()
    recognizer.enroll("ada", good)
    for answers in (recognizer.classify([good, wrong, good]), recognizer.identify([good, wrong, good])):
        assert isinstance(answers[1], ImageError)
        assert "\n" not in str(answers[1])
        assert answers[0] == answers[2]
        assert not isinstance(answers[0], ImageError)
    for use in (recognizer.embed, recognizer.class_scores, lambda each: recognizer.enroll("eve", each)):
        with pytest.raises(ImageError, match=r"^images\[1\]: "):
            use([good, wrong, good])
    assert recognizer.names == ["ada"]


EIGHT_BITS = np.full((28, 28), 200, np.uint8)
REFUSED: dict[str, tuple[Any, str]] = {
    "8 bits as uint16": (EIGHT_BITS.astype(np.uint16), "integers up to 200, which are black where 65,535 is white"),
    "8 bits as mode I": (Image.fromarray(EIGHT_BITS).convert("I"), "integers up to 200, which are black where"),
    "8 bits as floats": (EIGHT_BITS.astype(np.float32), "outside 0 \\(black\\) to 1 \\(white\\). Divide by 255"),
    "an address": ("https://example.com/a.png", "^https://example.com/a.png: an address; expected a file"),
    "a folder": (".", ": a folder; expected a file"),
    "sparse": (torch.full((28, 28), 200.0).to_sparse(), "Divide by 255"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_read_as_another_picture_is_refused(name: str) -> None:
    found = frame(REFUSED[name][0], Preprocessor(28, 1, (0.2,), (0.4,)))
    assert isinstance(found, ImageError)
    assert re.search(REFUSED[name][1], str(found))


def test_a_blank_drawing_is_an_error_in_its_place(tmp_path: Path) -> None:
    recognizer = make(tmp_path, style="ink")
    blank = np.full((60, 60), 255, np.uint8)
    first, second = recognizer.classify([blank, drawing()])
    assert str(first) == "nothing is drawn there"
    assert not isinstance(second, ImageError)


def test_a_white_level_of_the_training_images_holds_for_arrays(tmp_path: Path) -> None:
    recognizer = make(tmp_path, white_level=4095.0)
    pixels = noise(30, 30)[..., 0]
    deep = (pixels.astype(np.float64) * 4095 / 255).round().astype(np.uint16)
    assert recognizer.embed(deep).equal(recognizer.embed(pixels))
    assert recognizer.embed(deep.astype(np.float32)).equal(recognizer.embed(pixels))
    with pytest.raises(ImageError, match="in the training images 4095 is white"):
        recognizer.embed(pixels / 255)


def test_framed_pixels_are_only_normalized(tmp_path: Path) -> None:
    recognizer = make(tmp_path, style="ink")
    pixels = torch.from_numpy(noise(28, 28)[None, ..., 0])[None]
    batch, errors = next(recognizer.model.batches(pixels, framed=True))
    torch.testing.assert_close(batch, (pixels / 255 - 0.2) / 0.4)
    assert errors == [None]
    assert recognizer.embed(pixels.numpy(), framed=True).equal(recognizer.embed(pixels, framed=True))
    for wrong in (pixels[0], pixels.float(), torch.zeros(1, 3, 28, 28, dtype=torch.uint8), "a.png"):
        with pytest.raises(ValueError, match=r"images: got .*; expected uint8 \(B, 1, 28, 28\), as framed is set"):
            recognizer.embed(wrong, framed=True)


def test_it_says_what_it_is(tmp_path: Path) -> None:
    recognizer = make(tmp_path)
    recognizer.enroll("ada", drawing())
    assert repr(recognizer) == (
        "Recognizer(TrainedModel(SimpleCNN 1x28x28 -> 16, ArcFaceHead, 4 classes, no threshold, on cpu), 1 enrolled)"
    )


def test_threads_get_the_answers_of_one(tmp_path: Path) -> None:
    recognizer = make(tmp_path)
    pictures = [png(noise(30 + place, 40)) for place in range(24)]
    (tmp_path / "deep.tif").write_bytes(b"II*\0damaged")
    pictures.append(str(tmp_path / "deep.tif"))  # type: ignore[arg-type]

    def answer(place: int) -> tuple[Any, ...]:
        found = recognizer.classify([pictures[place]])[0]
        return (
            (str(found),) if isinstance(found, ImageError) else (found, *recognizer.embed(pictures[place])[0].tolist())
        )

    def all_by(threads: int, work: Callable[[int], Any]) -> list[Any]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, [*range(len(pictures))] * 4))

    assert all_by(12, answer) == all_by(1, answer)


def test_threads_enroll_and_identify_at_once(tmp_path: Path) -> None:
    recognizer = make(tmp_path)
    pictures = [noise(30, 30 + place) for place in range(16)]
    start = threading.Barrier(8)

    def work(worker: int) -> None:
        start.wait()
        for place in range(worker, 16, 8):
            recognizer.enroll(f"name {place}", pictures[place])
            assert recognizer.identify(pictures[place])[0].name == f"name {place}"  # type: ignore[union-attr]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert sorted(recognizer.gallery.counts.values()) == [1] * 16
    for place, found in enumerate(recognizer.identify(pictures)):
        assert found.name == f"name {place}"  # type: ignore[union-attr]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(tmp_path: Path) -> None:
    cpu = make(tmp_path)
    gpu = Recognizer.from_checkpoint(tmp_path / "model.ckpt", device="cuda")
    gpu.model.preprocessor = cpu.model.preprocessor
    pixels = torch.from_numpy(noise(30, 30)[..., 0])
    rows = [gpu.embed(each) for each in (pixels, pixels.cuda(), (pixels / 255).cuda(), pixels.numpy())]
    assert all(row.equal(rows[0]) for row in rows)
    torch.testing.assert_close(rows[0], cpu.embed(pixels), rtol=0, atol=1e-3)  # TF32 rounds to 10 bits
