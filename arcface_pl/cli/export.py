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

_DESCRIPTION = """\
Write backbone, normalization, class centers and thresholds of a trained model to one self-contained file, with class
names, preprocessing constants and versions as metadata. The file is then run on real images; it is kept only if its
cosines are within 1e-5 of the model's.

  onnx         uint8 pixels to embedding, cosine and logits, any batch size, for ONNX Runtime
  torch        the same network as a torch.export program
  safetensors  the weights, and the settings that rebuild the model"""

_EPILOG = """\
example:
  arcface-pl export best --format onnx --output digits.onnx"""

NUM_IMAGES = 256


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
    from arcface_pl.recognizer.exporters import make

    option = "--output" if given.output else None
    path = Path(given.output or f"model{_SUFFIXES[given.format]}")
    if option:
        check_result(option, path)
    model = open_model(given.model, given.networks)
    images, source = _images(model, given.images)
    content, parity = make(model, given.format, images)
    try:
        with writing_result(path, option=option) as (file, path):
            file.write(content)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written ({error.strerror})") from error
    if given.json:
        row = {"file": str(path), "format": given.format, "bytes": path.stat().st_size, "images": source}
        print(json.dumps({**row, **parity._asdict()}))  # noqa: T201
        return
    print(f"{printable(path)}: {path.stat().st_size:,} bytes")  # noqa: T201
    print(  # noqa: T201
        f"run on {parity.num_images} images ({source}): cosines within {parity.cosine:.1e} of torch's, "
        f"embeddings within {parity.embedding:.1e}, {parity.same_class} of {parity.num_images} in the same class"
    )


def _parse(args: list[str]) -> argparse.Namespace:
    parser = ToolParser("export", _DESCRIPTION, _EPILOG)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--format", choices=tuple(_SUFFIXES), default="onnx", help="default: onnx")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="default: model.onnx, model.pt2 or model.safetensors; numbered if there is one",
    )
    parser.add_argument("--images", nargs="+", metavar="IMAGE", help="pictures or folders to compare on")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args(args)


def _images(model: "TrainedModel", names: list[str] | None) -> "tuple[Tensor, str]":
    """Return real images of the network's input size, and where they are from; nothing is downloaded."""
    import torch

    from arcface_pl.cli.inputs import find_pictures, read_pictures
    from arcface_pl.data.sources.catalog import CATALOG
    from arcface_pl.data.sources.find import find_folder, load_dataset
    from arcface_pl.evaluation.thresholds import evenly_spread

    if names:
        pictures = read_pictures(model, find_pictures(names, "--images"))
        if not pictures.paths:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in pictures.errors.items())
            raise SettingsError(expected("--images", " ".join(names), "pictures that can be read", reasons))
        return pictures.pixels[:NUM_IMAGES], "your own"
    spec = CATALOG.get(model.dataset_name or "", CATALOG["digits"])
    folder = find_folder(spec, "data") if spec.files else None
    if spec.files and folder is None:
        spec = CATALOG["digits"]
    images = load_dataset(spec, folder)[0].images
    images = images[evenly_spread(len(images), NUM_IMAGES)]
    if images.shape[1:] != (model.preprocessor.in_channels, *(model.preprocessor.image_size,) * 2):
        images = torch.stack([model.preprocessor.frame(image) for image in images])
    return images, spec.title
