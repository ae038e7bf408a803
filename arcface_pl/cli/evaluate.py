"""``arcface-pl evaluate``: classification, verification and retrieval of a checkpoint, in one table and one JSON."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from arcface_pl.cli.command_line import Request, parse_command_line
from arcface_pl.cli.config import BASE_CONFIG, merge, read_config
from arcface_pl.cli.parser import ToolParser, cell, split_words
from arcface_pl.errors import SettingsError, expected, listed
from arcface_pl.evaluation.protocols import PROTOCOLS

if TYPE_CHECKING:
    from arcface_pl.checkpoints.reading import CheckpointFile
    from arcface_pl.recognizer import TrainedModel

DESCRIPTION = """\
Score a checkpoint: classification of the classes it was trained on; verification (every pair of two images), retrieval
(each image looked up among the others) and identification (each named by the nearest of a few enrolled ones) of those
and of classes it has never seen. Prints one table and writes the same numbers as JSON.

The data are those of the checkpoint's run, its held-out classes included; --data and --data.SETTING change them as in
'arcface-pl fit', and images are then normalized as the network knows it. No config of the run is read."""

EPILOG = """\
protocols:
{protocols}

examples:
  arcface-pl evaluate best
  arcface-pl evaluate model.ckpt --protocol mnist-8-9 --figures figures
  arcface-pl evaluate model.ckpt --protocol omniglot
  arcface-pl evaluate model.ckpt --data.dataset fashion_mnist --split val
  arcface-pl evaluate model.ckpt --data ImageFolderDataModule --data.root photos
  arcface-pl evaluate model.ckpt --data PairsDataModule --data.root lfw --data.pairs_file pairs.txt
"""


def run(args: list[str]) -> None:
    """Evaluate a checkpoint.

    Args:
        args: What follows ``evaluate``.

    Raises:
        SettingsError: If a setting cannot be used, or the checkpoint was not trained for the protocol.
        DataError: If the data cannot be had or is damaged.
        CheckpointError: If the checkpoint cannot be used.
    """
    data_words, words = split_words(args, "--data")
    options = _parser().parse_args(words)
    request = parse_command_line("fit", data_words, ())
    # torch and lightning take seconds to import, which --help and a wrong flag need not wait for.
    from arcface_pl.callbacks.tensorboard.angle_histograms import angle_history_of
    from arcface_pl.checkpoints.find_checkpoint import find_checkpoint
    from arcface_pl.checkpoints.runs import run_of
    from arcface_pl.cli import evaluation_report as report
    from arcface_pl.cli.inputs import open_model

    report.check_places(options.json, options.figures)
    checkpoint = find_checkpoint(options.checkpoint)
    model = open_model(checkpoint, options.networks)
    data = data_of(checkpoint, model, request, options.split, options.protocol)
    found = report.evaluate_data(model, data, options.split, device_of(options.accelerator))
    results = {
        "checkpoint": str(checkpoint.path),
        "dataset": data.dataset_name if hasattr(data, "dataset_name") else type(data).__name__,
        "split": options.split,
        "protocol": options.protocol,
        **report.as_json(found),
    }
    console = Console(emoji=False)
    report.print_table(console, results["dataset"], options.split, found)
    run = run_of(*checkpoint)
    place = checkpoint.path.parent if run is None else run.folder
    path = report.write(options.json or place / _file_name(results), results, options.json is not None, run is not None)
    console.print(f"numbers in {cell(path)}", soft_wrap=True)
    if options.figures:
        history = angle_history_of(checkpoint.content)
        paths = report.save_figures(model, data, options.split, found, options.figures, history)
        console.print(f"{len(paths)} figures in {cell(options.figures)}", soft_wrap=True)


def _parser() -> ToolParser:
    listed = "\n".join(f"  {name:18}{each.title}" for name, each in PROTOCOLS.items())
    parser = ToolParser("evaluate", DESCRIPTION, EPILOG.format(protocols=listed))
    parser.add_argument("checkpoint", metavar="CKPT", help="a checkpoint; last, best or last-good for the newest run's")
    parser.add_argument("--protocol", choices=PROTOCOLS, metavar="NAME", help="a fixed protocol; see below")
    parser.add_argument(
        "--split",
        choices=("test", "val"),
        default="test",
        help="test images (default), or val: validation images and held-out classes' training images, to choose by",
    )
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu", "mps"), default="auto", help="default: auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to (default: evaluate-DATA.json in its run)")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="draw ROC, scores, confusions, mistakes, ... there")
    return parser


def data_of(
    checkpoint: "CheckpointFile", model: "TrainedModel", request: Request, split: str, protocol: str | None = None
) -> Any:
    """Build and load the data to evaluate on.

    Args:
        checkpoint: Its run's data are used, as far as the request changes nothing.
        model: The model of the checkpoint.
        request: Flags that begin with ``--data``.
        split: "train", "val" or "test", for messages about missing loaders.
        protocol: A fixed protocol, which sets the data.
    """
    from arcface_pl.cli.resume import settings_of_checkpoint
    from arcface_pl.cli.settings import build_data
    from arcface_pl.data import ImageDataModule, PairsDataModule
    from arcface_pl.data.protocol import check_loaders, check_names, fact

    settings = settings_of_checkpoint(checkpoint, other_data=request.names_data)
    if "data" not in settings and not request.names_data:
        raise SettingsError(
            f"{checkpoint.path}: it does not say what data it was trained on; give --data and its settings"
        )
    arguments = settings.get("data", {}).get("init_args", {})
    if arguments.get("seed") is None:
        arguments["seed"] = settings.get("seed_everything")  # the validation images are those of the run
    named = {name for name, _ in request.flags}
    if protocol is not None:
        if named & {"data", "data.dataset", "data.classes", "data.held_out_classes"}:
            raise SettingsError(f"--{min(named)}: not accepted with --protocol {protocol}, which sets the data")
        _check_protocol(protocol, model)
        settings = merge(settings, {"data": PROTOCOLS[protocol].settings})
    elif {"data", "data.dataset"} & named:
        for name in ("classes", "held_out_classes"):  # those of the run's own data set
            arguments.pop(name, None)
    preprocessor = model.preprocessor
    sizes = {"in_channels": preprocessor.in_channels, "image_size": preprocessor.image_size}
    data = build_data(*request.over(merge(read_config(BASE_CONFIG), settings)), sizes)
    if hasattr(data, "use_preprocessing"):
        data.use_preprocessing(preprocessor)
    elif hasattr(data, "normalize_as"):
        data.normalize_as(preprocessor.mean, preprocessor.std)
    data.prepare_data()
    if isinstance(data, ImageDataModule | PairsDataModule):
        data.setup("test")
    elif not check_loaders(data, {"train": "fit", "val": "validate"}.get(split, "test")):
        accepted = f"a data module with a {split}_dataloader"
        raise SettingsError(expected("--data", type(data).__name__, accepted))
    names = fact(data, "class_names", range(model.head.num_classes))
    check_names(data, fact(data, "num_classes", len(names)))
    return data


def _check_protocol(name: str, model: "TrainedModel") -> None:
    protocol = PROTOCOLS[name]
    if not protocol.accepts(model.dataset_name, model.class_names):
        trained = f"a checkpoint trained on {listed(model.class_names)} of {model.dataset_name}"
        raise SettingsError(f"--protocol {name}: got {trained}; expected one trained with {protocol.training_flags}")


def device_of(accelerator: str) -> Any:
    import torch

    there = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(accelerator, True):
        raise SettingsError(expected("--accelerator", accelerator, "cpu or auto", "torch finds no such device"))
    chosen = accelerator if accelerator != "auto" else next((name for name, found in there.items() if found), "cpu")
    return torch.device("cuda" if chosen == "gpu" else chosen)


def _file_name(results: dict[str, Any]) -> str:
    measured = re.sub(r"[^\w.-]", "_", str(results["protocol"] or results["dataset"]))
    return f"evaluate-{measured}{'-val' * (results['split'] == 'val')}.json"
