"""``arcface-pl evaluate``: classification, verification and retrieval of a checkpoint, in one table and one JSON."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from arcface_pl.cli.command_line import Request, parse_command_line
from arcface_pl.cli.config import BASE_CONFIG, read_config
from arcface_pl.cli.layers import merge
from arcface_pl.cli.parser import MODEL_HELP, ToolParser, cell, split_words
from arcface_pl.cli.program import shown_path
from arcface_pl.errors import DataError, SettingsError, expected, listed, printable
from arcface_pl.evaluation.protocols import PROTOCOLS

if TYPE_CHECKING:
    from arcface_pl.checkpoints.reading import CheckpointFile
    from arcface_pl.recognizer import TrainedModel


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
    if options.pairs:
        data_words = ["--data", "PairsDataModule", "--data.pairs_file", options.pairs, *data_words]
    request = parse_command_line("fit", data_words)
    # torch and lightning take seconds to import, which --help and a wrong flag need not wait for.
    from arcface_pl.callbacks.tensorboard.angle_histograms import angle_history_of
    from arcface_pl.checkpoints.runs import run_of
    from arcface_pl.cli import evaluation_report as report
    from arcface_pl.cli.inputs import find_model
    from arcface_pl.cli.report import dataset_of
    from arcface_pl.recognizer.embedding_reading import is_embeddings

    report.check_places(options.json, options.figures)
    if is_embeddings(options.checkpoint):
        _evaluate_embeddings(options, data_words)
        return
    checkpoint, model = find_model(options.checkpoint, options.networks)
    data = data_of(checkpoint, model, request, options.split, options.protocol)
    as_insightface = options.insightface or getattr(data, "holds_images", False)
    if as_insightface and getattr(data, "pairs", None) is None:
        raise SettingsError(expected("--insightface", "data without a list of pairs", "--pairs"))
    device, how = device_of(options.accelerator), {"flip": options.flip, "as_insightface": as_insightface}
    found = report.evaluate_data(model, data, options.split, device, **how)
    results = {
        "checkpoint": str(checkpoint.path),
        "dataset": dataset_of(data),
        "split": options.split,
        "protocol": options.protocol,
        "flip": options.flip,
        **report.as_json(found),
    }
    console = Console(emoji=False)
    shown = f"{options.split}{', with mirror images' * options.flip}"
    report.print_table(console, results["dataset"], shown, found)
    run = run_of(*checkpoint)
    place = checkpoint.path.parent if run is None else run.folder
    path = _write(options, place / _file_name(results), results, run is not None)
    console.print(f"numbers in {cell(shown_path(path))}", soft_wrap=True)
    if options.figures:
        history = angle_history_of(checkpoint.content)
        paths = report.save_figures(model, data, options.split, found, options.figures, history)
        tables = [path.name for path in paths if path.suffix == ".csv"]
        written = ", ".join([f"{len(paths) - len(tables)} figures", *tables])
        console.print(f"{written} in {cell(options.figures)}", soft_wrap=True)


def _evaluate_embeddings(options: Any, data_words: list[str]) -> None:
    """Measure embeddings of a file by their labels."""
    import torch

    from arcface_pl.cli import evaluation_report as report
    from arcface_pl.evaluation.measure import Embedded, evaluate
    from arcface_pl.recognizer.embedding_reading import read_embeddings

    asked = [*data_words, *options.networks]
    asked += [f"--{name}" for name in ("protocol", "figures", "flip", "insightface") if getattr(options, name)]
    if asked or options.split != "test":
        flag = (asked or ["--split"])[0].partition("=")[0]
        raise SettingsError(f"{flag}: not accepted with embeddings, which are measured by their labels")
    path = Path(options.checkpoint)
    table = read_embeddings(path)
    if len(table.ids) < 2:
        raise DataError(expected(f"{path}: embeddings", len(table.ids), "two or more, to be compared"))
    embedded = Embedded(torch.from_numpy(table.embeddings), torch.from_numpy(table.labels))
    found = {"unseen": evaluate(embedded, table.class_names)}
    console = Console(emoji=False)
    report.print_table(console, path.stem, "embeddings", found)
    results = {"embeddings": str(path), **report.as_json(found)}
    path = _write(options, path.parent / f"evaluate-{path.stem}.json", results, False)
    console.print(f"numbers in {cell(shown_path(path))}", soft_wrap=True)


def _write(options: Any, path: Path, results: dict[str, Any], replace: bool) -> Path:
    """Write the results to --json, or to ``path``, where ``replace`` replaces an older result."""
    from arcface_pl.cli.result_files import write_json_result

    where = {"option": "--json" if options.json else None, "remedy": "give --json a folder that can be written"}
    return write_json_result(options.json or path, results, replace=replace, **where)


def _parser() -> ToolParser:
    parser = ToolParser("evaluate", protocols="".join(f"  {name:18}{each.title}\n" for name, each in PROTOCOLS.items()))
    parser.add_argument("checkpoint", metavar="MODEL", help=f"{MODEL_HELP}; or a file of embeddings")
    parser.add_argument(
        "--pairs", metavar="FILE", help="a list of pairs, such as LFW's pairs.txt, or insightface's lfw.bin"
    )
    parser.add_argument(
        "--insightface", action="store_true", help="score the pairs as insightface does, too (a .bin file always is)"
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, metavar="NAME", help="a fixed protocol; see below")
    parser.add_argument(
        "--split",
        choices=("test", "val"),
        default="test",
        help="test images (default), or val: validation images and held-out classes' training images, to choose by",
    )
    parser.add_argument("--flip", action="store_true", help="flip test: add the embedding of each image's mirror image")
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
    from arcface_pl.cli.building import build_data
    from arcface_pl.cli.drawn_splits import warn_of_trained_images
    from arcface_pl.cli.resume import settings_of_checkpoint
    from arcface_pl.data import ImageDataModule, PairsDataModule
    from arcface_pl.data.protocol import check_loaders, check_names, fact

    known = bool(checkpoint.content)  # of an ONNX file nothing is
    settings = settings_of_checkpoint(checkpoint, other_data=request.names_data) if known else {}
    if "data" not in settings and not request.names_dataset:
        accepted = f"a data module and its settings: {printable(checkpoint.path)} does not say what it was trained on"
        raise SettingsError(expected("--data", None, accepted))
    arguments = settings.get("data", {}).get("init_args", {})
    seed = settings.get("seed_everything") if arguments.get("seed") is None else arguments["seed"]
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
    data = build_data(*request.over(merge(read_config(BASE_CONFIG), settings)), sizes, seed)
    if hasattr(data, "use_preprocessing"):
        data.use_preprocessing(preprocessor)
    data.prepare_data()
    if isinstance(data, ImageDataModule | PairsDataModule):
        data.setup("test")
        if isinstance(data, ImageDataModule) and known:
            warn_of_trained_images(data, split, checkpoint.path, checkpoint.content.get("data") or {})
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
    return f"evaluate-{measured}{'-val' * (results['split'] == 'val')}{'-flip' * results['flip']}.json"
