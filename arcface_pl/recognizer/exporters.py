"""Export a trained model to one self-contained file, which is run and compared before it is kept."""

import io
import json
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from arcface_pl.checkpoints.network import REGISTRIES, is_known
from arcface_pl.checkpoints.results import MARK, writing_result
from arcface_pl.errors import ExportError, expected
from arcface_pl.recognizer.answers import Thresholds
from arcface_pl.recognizer.as_checkpoint import EXPORTED
from arcface_pl.recognizer.deployed import DeployedModel, Outputs
from arcface_pl.recognizer.pretrained import from_config, to_config, to_tensors
from arcface_pl.recognizer.quantize import Loss, measure, quantize, quiet
from arcface_pl.recognizer.trained import BATCH, TrainedModel

TOLERANCE = 1e-5
"""Largest accepted difference between a cosine of the file and of the model."""
OPSETS = (18, 24)
"""Oldest and newest opset of ONNX; torch's exporter does not reach older ones, and the first is the default."""
LARGEST = 2_000_000_000
"""Bytes of weights in one ONNX file: protobuf is limited to 2 GiB."""


class Parity(NamedTuple):
    """Comparison of a file's outputs with the model's.

    Attributes:
        num_images: Number of images.
        cosine: Largest absolute difference of a cosine.
        embedding: Largest absolute difference of an embedding's component.
        same_class: Images with the same predicted class.
    """

    num_images: int
    cosine: float
    embedding: float
    same_class: int


def export(model: TrainedModel, path: str | Path, file_format: str, images: Tensor) -> Parity:
    """Write a model to one file, run it on ``images``, and keep it if its outputs are the model's.

    Args:
        model: The trained model, on the CPU.
        path: The file to write.
        file_format: "onnx": pixels to embedding, cosine and logits, for ONNX Runtime. "torch": the same network as a
            ``torch.export`` program. "safetensors": weights alone, with the settings that rebuild the model.
        images: (B, C, S, S) uint8, B >= 1. Use real ones: noise tests little.

    Returns:
        The comparison.

    Raises:
        ExportError: As `make`, or if the file cannot be written. The file at ``path`` is then unchanged.
        SettingsError: If there is a file at ``path`` that no export wrote.
    """
    content, parity = make(model, file_format, images)
    try:
        with writing_result(Path(path), option="path") as (file, _):
            file.write(content)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror})") from error
    return parity


def make(model: TrainedModel, file_format: str, images: Tensor, *, opset: int = OPSETS[0]) -> tuple[bytes, Parity]:
    """Return the content of the file, run on ``images``, and the comparison.

    Args:
        model: See `export`.
        file_format: See `export`.
        images: See `export`.
        opset: Of an ONNX file, in `OPSETS`.

    Raises:
        ExportError: If a library is missing, the model cannot be exported to this format, or a cosine differs by more
            than `TOLERANCE`.
    """
    convert, run = _FORMATS[file_format]
    try:
        content = convert(model, _metadata(model), opset)
        with tempfile.TemporaryDirectory() as folder:
            trial = Path(folder) / "model"
            trial.write_bytes(content)
            parity = compare(_run_model(model, images), run(trial, images, model))
        if not parity.cosine <= TOLERANCE:
            fault = f"not written: cosines differ by up to {parity.cosine:.1e} from the model's"
            raise ExportError(f"{file_format}: {fault}; expected at most {TOLERANCE:.0e}")
    except ImportError as error:
        raise ExportError(f"{file_format}: {error.name} is not installed; pip install 'arcface_pl[export]'") from error
    except OSError as error:
        if tempfile.tempdir is None:  # there is no folder for temporary files
            raise
        raise ExportError(f"{tempfile.gettempdir()}: cannot be written ({error.strerror})") from error
    return content, parity


def compare(expected: Outputs, got: Outputs) -> Parity:
    """Compare outputs; NaN counts as an infinite difference."""
    cosine, embedding = (
        float((getattr(expected, name) - getattr(got, name)).abs().nan_to_num(torch.inf).max())
        for name in ("cosine", "embedding")
    )
    same = int((expected.logits.argmax(1) == got.logits.argmax(1)).sum())
    return Parity(len(expected.cosine), cosine, embedding, same)


def make_int8(
    model: TrainedModel, content: bytes, measured_on: Tensor, judged_on: Tensor, labels: Tensor | None
) -> tuple[bytes, Loss]:
    """Quantize an ONNX file, and measure what that costs.

    Args:
        model: The model.
        content: What `make` returned.
        measured_on: (B, C, S, S) uint8, for the scales.
        judged_on: (N, C, S, S) uint8, other images.
        labels: (N,) int64 class numbers of these, where they are known.

    Raises:
        ExportError: If the embeddings differ too much to be of use.
    """
    made = quantize(content, measured_on)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "model"
        trial.write_bytes(made)
        return made, measure(_run_model(model, judged_on), _run_onnx(trial, judged_on, model), labels)


@torch.inference_mode()
def _run_model(model: TrainedModel, images: Tensor) -> Outputs:
    """Compute the outputs with the model's own parts, not with `DeployedModel`."""
    embeddings = torch.cat([model.backbone(batch) for batch, _ in model.batches(images, framed=True)])
    return Outputs(F.normalize(embeddings, dim=1), model.head.cosine(embeddings), model.head(embeddings))


def _metadata(model: TrainedModel) -> dict[str, str]:
    """Return everything but the weights as text; values that are not text become JSON."""
    config, thresholds = to_config(model), Thresholds.of(model.calibration)
    values = {
        "input": "pixels: uint8 (batch, channels, height, width), values from 0 to 255, not normalized; colors in the "
        "order red, green, blue, whatever channel_order is",
        "outputs": "embedding: (batch, D), unit length; cosine: (batch, classes), to the class centers; logits: "
        "(batch, classes), the class is where they are largest",
        "class_names": config["class_names"],
        "mean": list(model.preprocessor.mean),
        "std": list(model.preprocessor.std),
        "channel_order": model.preprocessor.channel_order,
        "threshold_classification": thresholds.classification,
        "threshold_verification": thresholds.verification,
        "producer": MARK.decode(),
        "versions": config["versions"],
        "fingerprint": model.fingerprint,
        EXPORTED: config,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def _program(model: TrainedModel) -> torch.export.ExportedProgram:
    to_input = model.preprocessor
    # A batch of one would be specialized to a constant
    example = torch.zeros(2, to_input.in_channels, to_input.image_size, to_input.image_size, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(DeployedModel(model), (example,), dynamic_shapes={"pixels": {0: batch}})


def _to_onnx(model: TrainedModel, metadata: dict[str, str], opset: int) -> bytes:
    import onnxscript  # noqa: F401  # needed by torch's exporter; imported here to name it if it is missing

    size = sum(weight.nbytes for part in (model.backbone, model.head) for weight in part.parameters())
    if size > LARGEST:
        raise ExportError(expected("onnx", f"{size:,} bytes of weights", f"at most {LARGEST:,}", "Use safetensors"))
    with quiet("torch.onnx"):
        program = torch.onnx.export(
            _program(model),
            input_names=["pixels"],
            output_names=list(Outputs._fields),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    return program.model_proto.SerializeToString()


def _run_onnx(path: Path, images: Tensor, model: TrainedModel) -> Outputs:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [session.run(list(Outputs._fields), {"pixels": batch.numpy()}) for batch in images.split(BATCH)]
    return Outputs(*(torch.cat([torch.from_numpy(each) for each in column]) for column in zip(*parts, strict=True)))


def _to_torch(model: TrainedModel, metadata: dict[str, str], opset: int) -> bytes:
    file = io.BytesIO()
    text = json.dumps(metadata)
    with quiet("torch.onnx"):
        torch.export.save(_program(model), file, extra_files={"metadata.json": text})
    return file.getvalue()


def _run_torch(path: Path, images: Tensor, model: TrainedModel) -> Outputs:
    with quiet("torch.onnx"):
        network = torch.export.load(io.BytesIO(path.read_bytes())).module()
    with torch.inference_mode():
        parts = [network(batch) for batch in images.split(BATCH)]
    return Outputs(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _to_safetensors(model: TrainedModel, metadata: dict[str, str], opset: int) -> bytes:
    return save(to_tensors(model), metadata)


def _run_safetensors(path: Path, images: Tensor, model: TrainedModel) -> Outputs:
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()[EXPORTED])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # Classes that are not of this package cannot be built by name: a copy receives all weights of the file
    own: dict[str, Any] = {
        role: deepcopy(getattr(model, role)) for role in REGISTRIES if not is_known(role, config[role])
    }
    return _run_model(from_config(config, tensors, path, **own), images)


_Convert = Callable[[TrainedModel, dict[str, str], int], bytes]
_Run = Callable[[Path, Tensor, TrainedModel], Outputs]
_FORMATS: dict[str, tuple[_Convert, _Run]] = {
    "onnx": (_to_onnx, _run_onnx),
    "safetensors": (_to_safetensors, _run_safetensors),
    "torch": (_to_torch, _run_torch),
}
FORMATS = tuple(_FORMATS)
