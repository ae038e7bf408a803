"""A trained model as one self-contained file, which is run and compared with the model before it is kept."""

import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from arcface_pl.checkpoints.atomic import replacing
from arcface_pl.errors import ExportError
from arcface_pl.recognizer.deployed import DeployedModel, Outputs
from arcface_pl.recognizer.pretrained import from_config, to_config, to_tensors
from arcface_pl.recognizer.trained import BATCH, TrainedModel

__all__ = ["FORMATS", "TOLERANCE", "Parity", "compare", "export"]

TOLERANCE = 1e-5
"""How far a cosine that the file gives may be from the model's."""
OPSET = 18
LARGEST = 2_000_000_000
"""Bytes of weights that one ONNX file holds: protobuf ends at 2 GiB."""


class Parity(NamedTuple):
    """How a file's answers compare with those of the model it was made from.

    Attributes:
        num_images: Images that both were given.
        cosine: Largest difference of a cosine.
        embedding: Largest difference of a component of an embedding.
        same_class: Images that both put into the same class.
    """

    num_images: int
    cosine: float
    embedding: float
    same_class: int


def export(model: TrainedModel, path: str | Path, file_format: str, images: Tensor) -> Parity:
    """Write a model as one file that needs no other, run it on ``images``, and keep it if the answers are the model's.

    Args:
        model: The trained model, on the CPU.
        path: The file to write.
        file_format: "onnx": pixels to embedding, cosine and logits, for ONNX Runtime. "torch": the same network as a
            ``torch.export`` program. "safetensors": weights alone, with the settings that rebuild the model.
        images: (B, C, S, S) uint8, B >= 1: real ones, or the comparison says little.

    Returns:
        The comparison.

    Raises:
        ExportError: If a library is missing, the model cannot be written in this format, the file's cosines are further
            than `TOLERANCE` from the model's, or it cannot be written. No file is left then.
    """
    make, run = _FORMATS[file_format]
    try:
        content = make(model, _metadata(model))
        with tempfile.TemporaryDirectory() as folder:
            trial = Path(folder) / "model"
            trial.write_bytes(content)
            parity = compare(_run_model(model, images), run(trial, images))
        if not parity.cosine <= TOLERANCE:
            raise ExportError(
                f"{path}: not written, since its cosines are up to {parity.cosine:.1e} from the model's, and at most "
                f"{TOLERANCE:.0e} is accepted"
            )
        with replacing(Path(path)) as file:
            file.write(content)
    except ImportError as error:
        raise ExportError(f"{file_format}: needs {error.name}; pip install 'arcface_pl[export]'") from error
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror})") from error
    return parity


def compare(expected: Outputs, got: Outputs) -> Parity:
    """Compare a file's answers with the model's; an answer that is no number is infinitely far away."""
    cosine, embedding = (
        float((getattr(expected, name) - getattr(got, name)).abs().nan_to_num(torch.inf).max())
        for name in ("cosine", "embedding")
    )
    same = int((expected.logits.argmax(1) == got.logits.argmax(1)).sum())
    return Parity(len(expected.cosine), cosine, embedding, same)


@torch.inference_mode()
def _run_model(model: TrainedModel, images: Tensor) -> Outputs:
    """Take the answers from the model's own parts: nothing that is exported takes part."""
    embeddings = torch.cat([model.backbone(batch) for batch in model.batches(images)])
    return Outputs(F.normalize(embeddings, dim=1), model.head.cosine(embeddings), model.head(embeddings))


def _metadata(model: TrainedModel) -> dict[str, str]:
    """Say everything but the weights, in texts; what is no text is JSON."""
    config, calibration = to_config(model), model.calibration
    decision = None if calibration is None else calibration.classification
    values = {
        "input": "pixels: uint8 (batch, channels, height, width), values from 0 to 255, not normalised",
        "outputs": "embedding: (batch, D), unit length; cosine: (batch, classes), to the class centers; logits: "
        "(batch, classes), the class is where they are largest",
        "class_names": config["class_names"],
        "mean": list(model.preprocessor.mean),
        "std": list(model.preprocessor.std),
        "threshold_classification": None if decision is None else decision.threshold,
        "threshold_verification": None if calibration is None else calibration.verification.threshold,
        "versions": config["versions"],
        "fingerprint": model.fingerprint,
        "arcface_pl": config,
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
    }


def _program(model: TrainedModel) -> torch.export.ExportedProgram:
    to_input = model.preprocessor
    # Two of them: a batch of one would be taken for a constant
    example = torch.zeros(2, to_input.in_channels, to_input.image_size, to_input.image_size, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(DeployedModel(model), (example,), dynamic_shapes={"pixels": {0: batch}})


def _to_onnx(model: TrainedModel, metadata: dict[str, str]) -> bytes:
    import onnxscript  # noqa: F401  # what torch's exporter needs, named here where it is missing

    size = sum(weight.nbytes for part in (model.backbone, model.head) for weight in part.parameters())
    if size > LARGEST:
        raise ExportError(f"onnx: the weights have {size:,} bytes, and one file holds {LARGEST:,}; use safetensors")
    with _quiet():
        program = torch.onnx.export(
            _program(model),
            input_names=["pixels"],
            output_names=list(Outputs._fields),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    return program.model_proto.SerializeToString()


def _run_onnx(path: Path, images: Tensor) -> Outputs:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [session.run(list(Outputs._fields), {"pixels": batch.numpy()}) for batch in images.split(BATCH)]
    return Outputs(*(torch.cat([torch.from_numpy(each) for each in column]) for column in zip(*parts, strict=True)))


def _to_torch(model: TrainedModel, metadata: dict[str, str]) -> bytes:
    file = io.BytesIO()
    text = json.dumps(metadata, ensure_ascii=False)
    with _quiet():
        torch.export.save(_program(model), file, extra_files={"metadata.json": text})
    return file.getvalue()


def _run_torch(path: Path, images: Tensor) -> Outputs:
    with _quiet():
        network = torch.export.load(io.BytesIO(path.read_bytes())).module()
    with torch.inference_mode():
        parts = [network(batch) for batch in images.split(BATCH)]
    return Outputs(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _to_safetensors(model: TrainedModel, metadata: dict[str, str]) -> bytes:
    return save(to_tensors(model), metadata)


def _run_safetensors(path: Path, images: Tensor) -> Outputs:
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["arcface_pl"])
        return _run_model(from_config(config, {name: file.get_tensor(name) for name in file.keys()}, path), images)  # noqa: SIM118


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what torch's exporters say of their own workings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


_FORMATS: dict[str, tuple[Callable[[TrainedModel, dict[str, str]], bytes], Callable[[Path, Tensor], Outputs]]] = {
    "onnx": (_to_onnx, _run_onnx),
    "safetensors": (_to_safetensors, _run_safetensors),
    "torch": (_to_torch, _run_torch),
}
FORMATS = tuple(_FORMATS)
