"""int8 versions of an exported ONNX file, made by ONNX Runtime's static quantizer."""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from arcface_pl.errors import ExportError
from arcface_pl.recognizer.deployed import Outputs

LEAST_COSINE = 0.98
"""Smallest accepted mean cosine between an embedding in int8 and in float."""
# Products with the class centers stay in float: they are few, and cosines depend on every digit
_QUANTIZED = ["Conv", "Gemm"]


class Loss(NamedTuple):
    """What int8 costs.

    Attributes:
        num_images: Number of images.
        mean_cosine: Mean cosine between the embedding of an image in int8 and in float.
        least_cosine: The smallest of them.
        same_class: Images with the same predicted class.
        accuracy: Share of right predictions in float and in int8; None without labels.
    """

    num_images: int
    mean_cosine: float
    least_cosine: float
    same_class: int
    accuracy: tuple[float, float] | None


class _Batches:
    """What the quantizer reads: one batch per call, then None."""

    def __init__(self, images: Tensor) -> None:
        self._batches: Iterator[Tensor] = iter(images.split(32))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch.numpy()}


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Silence a logger, and warnings, about the internals of an exporter."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def quantize(content: bytes, images: Tensor) -> bytes:
    """Quantize convolutions and linear layers to int8, per channel, with scales measured on images.

    Args:
        content: An ONNX file that `make` returned.
        images: (B, C, S, S) uint8, such as the network was trained on; others than those it is judged by.

    Returns:
        The ONNX file, with the metadata of ``content``.

    Raises:
        ImportError: If onnx or onnxruntime is not installed.
    """
    import onnx
    from onnxruntime import quantization

    # The quantizer advises through the root logger to preprocess, which torch has done
    with quiet(""), tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(content)
        quantization.quantize_static(
            source,
            target,
            _Batches(images),
            per_channel=True,
            op_types_to_quantize=_QUANTIZED,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        made = onnx.load(target)
    metadata = {each.key: each.value for each in onnx.load_from_string(content).metadata_props}
    onnx.helper.set_model_props(made, metadata)
    return made.SerializeToString()


def measure(expected: Outputs, got: Outputs, labels: Tensor | None) -> Loss:
    """Compare int8 outputs with those of the model.

    Args:
        expected: In float.
        got: In int8, of the same images.
        labels: (B,) int64 class numbers, where they are known.

    Raises:
        ExportError: If the embeddings differ too much to be of use.
    """
    cosines = F.cosine_similarity(expected.embedding.double(), got.embedding.double())
    predicted = [each.logits.argmax(1) for each in (expected, got)]
    mean = float(cosines.nan_to_num(-1).mean())
    if mean < LEAST_COSINE:
        fault = f"the embeddings in int8 have a mean cosine of {mean:.4f} to those in float"
        raise ExportError(f"quantize int8: not written: {fault}; expected at least {LEAST_COSINE}")
    first, second = (None if labels is None else float((each == labels).double().mean()) for each in predicted)
    accuracy = None if first is None or second is None else (first, second)
    return Loss(len(cosines), mean, float(cosines.min()), int(torch.eq(*predicted).sum()), accuracy)
