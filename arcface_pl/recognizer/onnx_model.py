"""ONNX files of others as models: one image input, one output of embeddings; how to prepare pictures is given."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import yaml
from torch import Tensor

from arcface_pl.backbones.base import Backbone
from arcface_pl.checkpoints.atomic import replacing
from arcface_pl.errors import ExportError, UserError, expected, listed
from arcface_pl.evaluation.thresholds import Calibration
from arcface_pl.heads import Head
from arcface_pl.preprocessing import Preprocessor
from arcface_pl.recognizer.trained import TrainedModel

ChannelOrder = Literal["rgb", "bgr", "gray"]
Layout = Literal["nchw", "nhwc"]
_CHOICES = {"channel_order": ("rgb", "bgr", "gray"), "layout": ("nchw", "nhwc")}
_ASKED = ("mean", "std", "channel_order")
SETTINGS = (*_ASKED, "layout", "image_size")
_INSTALL = "onnxruntime is not installed; pip install 'arcface_pl[export]'"


def is_onnx(path: object) -> bool:
    """Whether a path names an ONNX file."""
    return str(path).lower().endswith(".onnx")


class OnnxBackbone(Backbone):
    """A network that ONNX Runtime runs on the CPU; it cannot be trained.

    Args:
        session: Of the file.
        shape: Of the input: images at once (0 for any number), channels, height and width.
        layout: "nchw" or "nhwc".
        digest: SHA-256 of the file.
    """

    sha256: Tensor

    def __init__(self, session: Any, shape: tuple[int, int, int], layout: Layout, *, digest: bytes) -> None:
        super().__init__()
        self.at_once, self.in_channels, self.image_size = shape
        self.layout, self._session = layout, session
        self.register_buffer("sha256", torch.frombuffer(bytearray(digest), dtype=torch.uint8))  # for fingerprints
        self.embedding_dim = 0
        blank = torch.zeros(1, self.in_channels, self.image_size, self.image_size)
        self.embedding_dim = self(blank).shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """Embed images, (B, C, S, S), on the CPU."""
        chunks = images.float().cpu().split(self.at_once or len(images)) if len(images) else ()
        rows = [self._run(chunk) for chunk in chunks]
        return torch.cat(rows).to(images.device) if rows else images.new_empty(0, self.embedding_dim)

    def _run(self, images: Tensor) -> Tensor:
        count = len(images)
        if self.at_once > count:  # the last ones of a network for a fixed number
            images = torch.cat((images, images[-1:].expand(self.at_once - count, -1, -1, -1)))
        given = images.permute(0, 2, 3, 1) if self.layout == "nhwc" else images
        place = self._session.get_inputs()[0]
        values = np.ascontiguousarray(given.numpy()).astype(np.float16 if "float16" in place.type else np.float32)
        found = self._session.run(None, {place.name: values})[0]
        if found.ndim < 2 or len(found) != len(images) or math.prod(found.shape[1:]) != found.shape[1]:
            name = self._session.get_outputs()[0].name
            raise ExportError(expected(f"output {name}", f"shape {found.shape}", "(batch, D), an embedding per image"))
        return torch.from_numpy(found.reshape(len(found), -1)[:count].astype(np.float32))


class NoClasses(Head):
    """The head of a network whose classes are not known: it has no centers.

    Args:
        embedding_dim: D, the width of the embeddings.
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__(embedding_dim, 1)
        self.num_classes, self.weight = 0, torch.nn.Parameter(torch.empty(0, embedding_dim))

    def cosine(self, embeddings: Tensor) -> Tensor:
        """Return (B, 0)."""
        return embeddings.new_empty(len(embeddings), 0)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise UserError("this model has no trained classes: enroll names, and identify pictures by those")

    forward = loss = predict = score = _refuse


def read_onnx(path: str | Path, given: Mapping[str, Any]) -> TrainedModel:
    """Open an ONNX file as a model without classes.

    What ``given`` lacks is read from a YAML file of the same name beside it, MODEL.yaml. Thresholds that
    `write_thresholds` left beside it are read, too.

    Args:
        path: The file.
        given: ``mean`` and ``std`` in pixel values from 0 to 255, a number or one per channel in the network's order,
            and ``channel_order`` ("rgb", "bgr" or "gray") are required; ``layout`` ("nchw" or "nhwc") and
            ``image_size`` only if the file leaves them open.

    Raises:
        ExportError: If the file cannot be used, or a setting is missing, invalid or contradicts the file.
    """
    path = Path(path)
    settings = {**_beside(path), **{name: value for name, value in given.items() if value is not None}}
    _check(path, settings)
    session = _session(path)
    place = session.get_inputs()[0]
    channels = 1 if settings["channel_order"] == "gray" else 3
    layout, size, at_once = _shape(path, list(place.shape), settings, channels)
    mean, std = (_per_channel(path, name, settings[name], channels) for name in ("mean", "std"))
    if settings["channel_order"] == "bgr":  # a Preprocessor has them in RGB
        preprocessor = Preprocessor(size, channels, mean[::-1], std[::-1], channel_order="bgr")
    else:
        preprocessor = Preprocessor(size, channels, mean, std)
    try:
        digest = hashlib.sha256(path.read_bytes()).digest()
        backbone = OnnxBackbone(session, (at_once, channels, size), layout, digest=digest)
    except UserError as error:
        raise ExportError(f"{path}: {error}") from None
    except Exception as error:  # ONNX Runtime's own, which only it can import
        raise ExportError(f"{path}: it does not run ({' '.join(str(error).split())[:200]})") from None
    return TrainedModel(backbone, NoClasses(backbone.embedding_dim), preprocessor, [], path.stem, read_thresholds(path))


def write_thresholds(path: str | Path, calibration: Calibration) -> Path:
    """Write thresholds beside an ONNX file or one of embeddings, as MODEL.thresholds.json."""
    place = _place(Path(path))
    read_thresholds(path)  # a file of another kind is not replaced
    with replacing(place) as file:
        file.write(json.dumps(calibration.to_dict(), indent=1).encode())
    return place


def _place(path: Path) -> Path:
    return path.with_suffix(".thresholds.json")


def read_thresholds(path: str | Path) -> Calibration | None:
    """Read what `write_thresholds` left beside a file; None if there is nothing."""
    place = _place(Path(path))
    try:
        return Calibration.from_dict(json.loads(place.read_text(encoding="utf-8"))) if place.exists() else None
    except (OSError, ValueError) as error:
        raise ExportError(f"{place}: it does not hold thresholds ({' '.join(str(error).split())[:200]})") from None


def _beside(path: Path) -> dict[str, Any]:
    place = path.with_suffix(".yaml")
    try:
        found = yaml.safe_load(place.read_text(encoding="utf-8")) if place.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ExportError(f"{place}: it cannot be read ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(found, dict) or (unknown := [name for name in found if name not in SETTINGS]):
        got = listed(unknown) if isinstance(found, dict) else type(found).__name__
        raise ExportError(expected(str(place), got, f"the keys {listed(SETTINGS)}"))
    return found


def _check(path: Path, settings: Mapping[str, Any]) -> None:
    if lacking := [name for name in _ASKED if settings.get(name) is None]:
        flags = ", ".join(f"--onnx.{name}" for name in lacking)
        remedy = f"Pictures can be prepared in many ways: give {flags}, or write {path.with_suffix('.yaml')}"
        raise ExportError(expected(f"{path}: {', '.join(lacking)}", None, "what the network was trained with", remedy))
    for name, choices in _CHOICES.items():
        if settings.get(name, choices[0]) not in choices:
            raise ExportError(expected(f"onnx.{name}", settings[name], f"one of {', '.join(map(repr, choices))}"))
    size = settings.get("image_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 8192):
        raise ExportError(expected("onnx.image_size", size, "pixels, 1 to 8192"))


def _per_channel(path: Path, name: str, value: Any, channels: int) -> tuple[float, ...]:
    """Return one number per channel on a scale of 0 to 1."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * channels
    numbers = [each for each in values if isinstance(each, int | float) and not isinstance(each, bool)]
    low = 1 if name == "std" else 0
    if len(numbers) != len(values) or len(values) != channels or not all(low <= each <= 1e4 for each in numbers):
        accepted = f"a number, or {channels}, from {low} in pixel values of 0 to 255"
        raise ExportError(expected(f"onnx.{name}", value, accepted, "Numbers on a scale of 0 to 1 times 255"))
    if name == "mean" and 0 < max(numbers) <= 1:
        accepted = "pixel values of 0 to 255"
        raise ExportError(expected("onnx.mean", value, accepted, "Numbers on a scale of 0 to 1 times 255"))
    return tuple(each / 255 for each in numbers)


def _shape(path: Path, shape: list[Any], settings: Mapping[str, Any], channels: int) -> tuple[Layout, int, int]:
    """Return layout, size and images at once (0 for any number), from the file as far as it tells."""
    if len(shape) != 4:
        raise ExportError(
            expected(f"{path}: input", f"shape {shape}", "(batch, channels, height, width), or these last")
        )
    sizes = [each if isinstance(each, int) and each > 0 else 0 for each in shape]  # 0: any
    fits = {"nchw": (1, 2, 3), "nhwc": (3, 1, 2)}
    matching = {
        name: places
        for name, places in fits.items()
        if sizes[places[0]] in (0, channels) and (0 in sizes[1:] or sizes[places[1]] == sizes[places[2]])
    }
    if not matching:
        accepted = f"square images with {channels} channels, since channel_order is {settings['channel_order']}"
        raise ExportError(expected(f"{path}: input", f"shape {shape}", accepted))
    layout = settings.get("layout") or (next(iter(matching)) if len(matching) == 1 else None)
    if layout not in matching:
        remedy = "Give --onnx.layout"
        raise ExportError(expected("onnx.layout", layout, f"{' or '.join(matching)}, for an input of {shape}", remedy))
    size = max(sizes[place] for place in matching[layout][1:])
    wanted = settings.get("image_size") or size
    if not wanted or (size and wanted != size):
        accepted = f"{size}, the size of the input" if size else f"pixels, since the input is {shape}"
        raise ExportError(expected("onnx.image_size", settings.get("image_size"), accepted, "Give --onnx.image_size"))
    return cast("Layout", layout), int(wanted), sizes[0]


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ExportError(f"{path}: {_INSTALL}") from None
    if not path.is_file():
        raise ExportError(f"{path}: there is no such file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # of errors only: old exporters' files have a warning for each tensor
    options.intra_op_num_threads = torch.get_num_threads()
    how: Any = {"sess_options": options, "providers": ["CPUExecutionProvider"]}
    try:
        session = onnxruntime.InferenceSession(path, **how)
        if len(session.get_inputs()) > 1:
            session = onnxruntime.InferenceSession(_without_stale_inputs(path), **how)
    except ExportError:
        raise
    except Exception as error:  # ONNX Runtime's own, which only it can import
        raise ExportError(f"{path}: it is no ONNX file that runs ({' '.join(str(error).split())[:200]})") from None
    for kind, places in (("input", session.get_inputs()), ("output", session.get_outputs())):
        if len(places) != 1 or places[0].type not in ("tensor(float)", "tensor(float16)"):
            got = listed([f"{each.name} {each.type}" for each in places])
            raise ExportError(expected(f"{path}: {kind}s", got, f"one {kind} of floating point"))
    return session


def _without_stale_inputs(path: Path) -> bytes:
    """Return the file without inputs that no node reads, as converters leave them behind."""
    import onnx

    model = onnx.load(path)
    read = set(_read_names(model.graph)) | {each.name for each in model.graph.output}
    kept = [each for each in model.graph.input if each.name in read]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    content: bytes = model.SerializeToString()
    return content


def _read_names(graph: Any) -> Iterable[str]:
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _read_names(inner)
