"""``arcface-pl export``: a trained model as one file, compared with the model before it is kept."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from arcface_pl.cli.parser import MODEL_HELP, ToolParser
from arcface_pl.errors import SettingsError, expected, printable

if TYPE_CHECKING:
    from torch import Tensor

    from arcface_pl.recognizer import TrainedModel

_SUFFIXES = {"onnx": ".onnx", "safetensors": ".safetensors", "torch": ".pt2"}

NUM_IMAGES, NUM_TEST = 256, 2000


def run(args: list[str]) -> None:
    """Export.

    Args:
        args: The model and flags.

    Raises:
        UserError: If the model cannot be used or exported.
    """
    given = _parse(args)
    from arcface_pl.checkpoints.results import check_result, writing_result
    from arcface_pl.cli.inputs import open_model
    from arcface_pl.recognizer.exporters import OPSETS, make, make_int8
    from arcface_pl.recognizer.onnx_model import is_onnx

    option = "--output" if given.output else None
    path = Path(given.output or f"model{_SUFFIXES[given.format]}")
    if option:
        check_result(option, path)
    if is_onnx(given.model):
        raise SettingsError(expected("MODEL", given.model, "a checkpoint or folder: this is an ONNX file already"))
    model = open_model(given.model, given.networks)
    (images, _), source = _images(model, given.images, step=2 if given.quantize else 1)
    content, parity = make(model, given.format, images, opset=OPSETS[0] if given.opset is None else given.opset)
    loss = None
    if given.quantize:
        (judged_on, labels), _ = _images(model, given.images, test=True, step=2)
        content, loss = make_int8(model, content, images, judged_on, labels)
    with writing_result(path, option=option, remedy="give --output a folder that can be written") as (file, path):
        file.write(content)
    if given.json:
        row = {"file": str(path), "format": given.format, "bytes": path.stat().st_size, "images": source}
        int8 = {} if loss is None else {"int8": loss._asdict()}
        print(json.dumps({**row, **parity._asdict(), **int8}))  # noqa: T201
        return
    print(f"{printable(path)}: {path.stat().st_size:,} bytes")  # noqa: T201
    print(  # noqa: T201
        f"run on {parity.num_images} images ({source}): cosines within {parity.cosine:.1e} of torch's, "
        f"embeddings within {parity.embedding:.1e}, {parity.same_class} of {parity.num_images} in the same class"
        + (" (before int8)" if loss else "")
    )
    if loss is not None:
        right = "" if loss.accuracy is None else ", accuracy {:.2%} in float and {:.2%} in int8".format(*loss.accuracy)
        print(  # noqa: T201
            f"int8 on {loss.num_images} other images: embeddings at a cosine of {loss.mean_cosine:.5f} to float's ("
            f"least {loss.least_cosine:.5f}), {loss.same_class} of {loss.num_images} in the same class{right}"
        )


def _parse(args: list[str]) -> argparse.Namespace:
    parser = ToolParser("export")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--format", choices=tuple(_SUFFIXES), default="onnx", help="default: onnx")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="default: model.onnx, model.pt2 or model.safetensors; numbered if there is one",
    )
    parser.add_argument("--opset", type=int, metavar="N", help="of ONNX, 18 to 24 (default: 18)")
    parser.add_argument(
        "--quantize", choices=("int8",), help="ONNX: convolutions and linear layers in int8; prints what that costs"
    )
    parser.add_argument("--images", nargs="+", metavar="IMAGE", help="pictures or folders to compare on")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    given = parser.parse_args(args)
    for name in ("opset", "quantize"):
        if (value := getattr(given, name)) is not None and given.format != "onnx":
            raise SettingsError(expected(f"--{name}", value, "no such flag with this format", "Use --format onnx"))
    if given.opset is not None and not 18 <= given.opset <= 24:
        raise SettingsError(expected("--opset", given.opset, "18 to 24"))
    return given


def _images(
    model: "TrainedModel", names: list[str] | None, *, test: bool = False, step: int = 1
) -> "tuple[tuple[Tensor, Tensor | None], str]":
    """Return real images of the network's input size with their labels, if known, and where they are from.

    Nothing is downloaded. Of a data set, training images, or test images if ``test`` is set; of your own, every
    ``step``-th, or those after them.
    """
    import torch

    from arcface_pl.cli.inputs import find_pictures, read_pictures
    from arcface_pl.data.sources.catalog import CATALOG
    from arcface_pl.data.sources.find import find_folder, load_dataset
    from arcface_pl.evaluation.thresholds import evenly_spread

    if names:
        pictures = read_pictures(model, find_pictures(names, "--images"))
        if len(pictures.paths) < step:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in pictures.errors.items())
            raise SettingsError(
                expected("--images", " ".join(names), f"{step} or more pictures that can be read", reasons)
            )
        chosen = pictures.pixels[int(test and len(pictures.paths) > 1) :: 2 if test else 1]
        return (chosen[:NUM_IMAGES], None), "your own"
    if step > 1 and model.dataset_name not in CATALOG:  # scales from other pictures would be wrong in silence
        got = "none" if model.dataset_name is None else f"none for a model of {model.dataset_name!r}"
        raise SettingsError(f"--images: got {got}; expected pictures of your own to choose the scales of int8 by")
    spec = CATALOG.get(model.dataset_name or "", CATALOG["digits"])
    folder = find_folder(spec, "data") if spec.files else None
    if spec.files and folder is None:
        spec = CATALOG["digits"]
    images, labels = load_dataset(spec, folder)[int(test)][:2]
    chosen = evenly_spread(len(images), NUM_TEST if test else NUM_IMAGES)
    images, labels = images[chosen], labels[chosen]
    if images.shape[1:] != (model.preprocessor.in_channels, *(model.preprocessor.image_size,) * 2):
        images = torch.stack([model.preprocessor.frame(image) for image in images])
    names = list(spec.class_names)
    is_own = (model.dataset_name or spec.name) == spec.name and set(model.class_names) <= set(names)
    if test and is_own:  # a model may know some of the classes only
        numbers = [names.index(name) for name in model.class_names]
        kept = torch.isin(labels, torch.tensor(numbers))
        images, labels = images[kept], torch.tensor([numbers.index(int(label)) for label in labels[kept]])
    if is_own:
        return (images, labels), spec.title
    return (images, None), f"{spec.title}; --images compares on your own"
