"""``evaluate``: what is measured on a data module, and its table, JSON and figures."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from arcface_pl.checkpoints.atomic import writing
from arcface_pl.checkpoints.results import check_result
from arcface_pl.cli.mistake_tables import CONFUSIONS, MISTAKES, write_confusions, write_mistakes
from arcface_pl.cli.parser import cell
from arcface_pl.data.paths import paths_of
from arcface_pl.data.protocol import fact, images_and_labels
from arcface_pl.errors import FileError, SettingsError
from arcface_pl.evaluation.insightface import insightface_lines, insightface_scores, with_mirrored
from arcface_pl.evaluation.judged import Judged, judge
from arcface_pl.evaluation.measure import FAR, Embedded, Evaluation, embed, evaluate
from arcface_pl.figures import AngleHistory, ClosedSet, Evaluated, Mistakes, count_degrees, save_all
from arcface_pl.figures.confusion import count_confusions
from arcface_pl.figures.style import SOFTWARE
from arcface_pl.preprocessing import in_order
from arcface_pl.recognizer import TrainedModel

MOST_MISTAKES = 24
# How each score reads, in the order of the rows of each kind.
_LABELS = {
    "accuracy": "accuracy",
    "target_mean": "mean angle to the target class",
    "nearest_other_mean": "mean angle to the nearest other class",
    "gap_mean": "their gap",
    "fold_accuracy": "accuracy, threshold from the other folds",
    "eer": "equal error rate",
    **{f"tar_at_far_{far:g}": f"TAR at FAR {100 * far:g}%" for far in FAR},
    "auc": "area under the ROC",
    "recall_at_1": "recall@1",
    "recall_at_5": "recall@5",
    "recall_at_10": "recall@10",
    "r_precision": "R-precision",
    "map_at_r": "MAP@R",
    "knn_accuracy": "k-NN accuracy",
    "rank_1_of_1_enrolled": "rank 1, one image of each class enrolled",
    "rank_1_of_5_enrolled": "rank 1, five enrolled",
    "one_shot_accuracy": "accuracy",
    "one_shot_standard_error": "its standard error",
}
_NOT_SHOWN = {"pairs": ["tar_at_far_0.0001"]}  # only the JSON has it: published lists have too few pairs
_TITLES = {"trained": "trained classes", "unseen": "other classes", "held_out": "held-out classes"}
_KINDS = {
    "classification": "classification",
    "verification": "verification, all pairs",
    "pairs": "verification, listed pairs",
    "retrieval": "retrieval, each among the others",
    "identification": "identification, ten galleries",
    "one_shot": "one-shot classification",
}


def evaluate_data(
    model: TrainedModel,
    data: Any,
    split: str,
    device: torch.device,
    *,
    flip: bool = False,
    as_insightface: bool = False,
) -> dict[str, Evaluation]:
    """Evaluate a data module's classes and those it holds out.

    Args:
        model: The trained model.
        data: A data module after ``setup``.
        split: "val" or "test".
        device: Device of the network.
        flip: Embed each image together with its mirror image.
        as_insightface: Score the pairs as insightface does as well, which embeds mirror images too.

    Returns:
        By set: ``trained`` for classes that the head was trained on or ``unseen`` for others, and ``held_out``.
    """
    sets = _sets_of(model, data, split)
    pairs = getattr(data, "pairs", None) if split == "test" else None
    roles = fact(data, "is_query", {}) if split == "test" else {}
    embedded, insightface = _embedded(model, sets, device, flip, pairs if as_insightface else None)
    if "held_out" in sets:  # the other split may have other classes
        classes, labels = embedded["held_out"].labels.unique(return_inverse=True)
        embedded["held_out"] = embedded["held_out"]._replace(labels=labels)
        names = data.held_out_class_names
        sets["held_out"] = (sets["held_out"][0], [names[label] for label in classes.tolist()])
    found = {
        name: evaluate(
            embedded[name],
            list(class_names),
            head=model.head if name == "trained" else None,
            pairs=None if name == "held_out" else pairs,
            is_query=roles.get("held_out" if name == "held_out" else "test"),
            runs=fact(data, "one_shot_runs", {}).get(split) if name == "held_out" else None,
        )
        for name, (_, class_names) in sets.items()
    }
    next(iter(found.values())).scores.update(insightface)
    return found


def _embedded(
    model: TrainedModel, sets: dict[str, tuple[Any, Sequence[str]]], device: torch.device, flip: bool, pairs: Any
) -> tuple[dict[str, Embedded], dict[str, dict[str, float]]]:
    """Return the embeddings by set, and insightface's scores where there are pairs, of the only set."""
    network, insightface = model.to(device).backbone, {}
    if pairs is None:
        embedded = {name: embed(network, batches, device, flip=flip) for name, (batches, _) in sets.items()}
    else:
        ((name, (batches, _)),) = sets.items()
        both, labels = embed(with_mirrored(network), batches, device)
        plain, mirrored = both.chunk(2, dim=1)
        insightface["insightface"] = insightface_scores(plain, mirrored, pairs)
        embedded = {name: Embedded((plain + mirrored) / 2 if flip else plain, labels)}
    model.to("cpu")
    return embedded, insightface


def _sets_of(model: TrainedModel, data: Any, split: str) -> dict[str, tuple[Any, Sequence[str]]]:
    """Return batches and class names of each set."""
    batches: Any = data.test_dataloader() if split == "test" else []
    if split == "val" and fact(data, "num_val"):
        batches = data.val_dataloader()
    if batches and isinstance(batches, list | tuple | dict):  # several loaders, which are one set, as in `test`
        batches = chain.from_iterable(batches.values() if isinstance(batches, dict) else batches)
    is_trained = bool(model.class_names) and list(data.class_names) == model.class_names
    sets = {"trained" if is_trained else "unseen": (batches, data.class_names)} if batches else {}
    if fact(data, "held_out_class_names") and (unseen := data.held_out_dataloader(split)):
        sets["held_out"] = (unseen, data.held_out_class_names)
    if not sets:
        kind = {"val": "validation"}.get(split, split)
        raise SettingsError(f"--split {split}: {type(data).__name__} has no {kind} images with these settings")
    return sets


def as_json(found: dict[str, Evaluation]) -> dict[str, Any]:
    """Lay the scores of each set out for JSON."""
    return {
        name: {"classes": each.class_names, "num_images": each.num_images, **each.scores}
        | ({"not_measured": each.not_measured} if each.not_measured else {})
        for name, each in found.items()
    }


def check_places(json_file: Path | None, figures: Path | None) -> None:
    """Refuse ``--json`` and ``--figures`` where a file of the user's would be replaced.

    Raises:
        SettingsError: Names the file.
    """
    if json_file is not None:
        check_result("--json", json_file)
    for path in sorted(each for name in _TITLES for each in (figures or Path()).glob(f"{name}/*.png")):
        if figures is not None:
            check_result("--figures", path, SOFTWARE)
    for header, name in ((MISTAKES, "mistakes.csv"), (CONFUSIONS, "confusions.csv")):
        if figures is not None:
            check_result("--figures", figures / "trained" / name, ",".join(header).encode())


def print_table(console: Console, dataset: str, part: str, found: dict[str, Evaluation]) -> None:
    """Print one table, a column per set of images, and what insightface prints where its scores are there."""
    table = Table(title=cell(f"{dataset}, {part}"), title_justify="left")
    table.add_column("")
    for name, each in found.items():
        table.add_column(
            f"{_TITLES[name]}{cell(_listed(each.class_names))}\n{each.num_images:,} images", justify="right"
        )
    for kind, title in _KINDS.items():
        scores = [each.scores.get(kind, {}) for each in found.values()]
        shown = _LABELS.keys() - _NOT_SHOWN.get(kind, ())
        rows = [score for score in _LABELS if score in shown and any(score in each for each in scores)]
        if rows:
            table.add_section()
            table.add_row(f"[bold]{title}", *map(_count, scores))
        for score in rows:
            cells = (_shown(score, each.scores.get(kind, {}), each) for each in found.values())
            table.add_row(f"  {_LABELS[score]}", *cells)
    console.print(table)
    for name, each in found.items():
        for text in each.not_measured:
            console.print(cell(f"{_TITLES[name]}: not measured: {text}"))
        for line in insightface_lines(dataset, each.scores["insightface"]) if "insightface" in each.scores else ():
            console.print(cell(line), soft_wrap=True)


def _listed(names: list[str]) -> str:
    if not names:
        return ""
    return f": {', '.join(names)}" if sum(map(cell_len, names)) < 24 else f": {len(names)}"


def _count(scores: dict[str, float]) -> str:
    total = scores.get("num_genuine", 0) + scores.get("num_impostor", 0)
    return f"{total:,} pairs" if total else f"{scores['num_runs']:,} runs" if "num_runs" in scores else ""


def _shown(score: str, scores: dict[str, float], each: Evaluation) -> str:
    value = scores.get(score)
    if value is None:
        return ""
    if (error := scores.get(f"{score}_standard_error")) is not None:
        return f"{value:.2%} \N{PLUS-MINUS SIGN} {error:.2%}"
    if score.endswith("_mean"):
        return f"{value:.1f}\N{DEGREE SIGN}"
    if score == "accuracy":
        return f"{value:.2%} ({round(value * each.num_images):,})"
    if score == "knn_accuracy":
        return f"{value:.2%} (k = {each.scores['retrieval']['knn_neighbours']:.0f})"
    return f"{value:.4f}" if score == "auc" else f"{value:.2%}"


@torch.no_grad()
def save_figures(
    model: TrainedModel, data: Any, split: str, found: dict[str, Evaluation], folder: Path, history: AngleHistory | None
) -> list[Path]:
    """Draw what there is to draw of each set, in a folder a set.

    With the trained classes also the angles over training, and mistakes.csv and confusions.csv.

    Returns:
        The files written.

    Raises:
        FileError: If a file cannot be written.
    """
    paths = []
    for name, each in found.items():
        closed, judged, trained = None, None, name == "trained"
        batches = data.val_dataloader() if split == "val" else data.test_dataloader()
        if trained and model.head.num_classes > 1:
            judged = judge(model.head, *each.embedded)
            closed = _closed_set(model, judged, batches)
        evaluated = Evaluated(split, each.class_names, *each.embedded, each.curve, closed, history if trained else None)
        with writing(folder / name, FileError, "give --figures a folder that can be written"):
            paths += save_all(evaluated, folder / name)
            if judged is not None:
                names, files, place = each.class_names, paths_of(batches), folder / name
                paths.append(write_mistakes(place / "mistakes.csv", judged, names, files, option="--figures"))
                paths.append(write_confusions(place / "confusions.csv", judged, names, option="--figures"))
    return paths


def _closed_set(model: TrainedModel, judged: Judged, batches: Any) -> ClosedSet:
    head: Any = model.head
    wrong = judged.mistakes()
    shown = wrong[:MOST_MISTAKES]
    images = in_order(_images_at(batches, shown.tolist()), model.preprocessor.channel_order)
    columns = (judged.labels, judged.predictions, judged.target_angle, judged.predicted_angle)
    return ClosedSet(
        centers=head.weight.detach(),
        sub_centers=head.sub_centers,
        confusion=count_confusions(judged.labels, judged.predictions, head.num_classes),
        angles=(count_degrees(judged.target_angle), count_degrees(judged.nearest_other_angle)),
        mistakes=Mistakes(images, *(column[shown] for column in columns)),
        num_wrong=len(wrong),
        num_images=len(judged.labels),
    )


def _images_at(batches: Any, rows: list[int]) -> torch.Tensor:
    """Return the images at some rows of a loader, in the order of the rows; the others are not held."""
    found: dict[int, torch.Tensor] = {}
    start = 0
    for batch in batches:
        images = images_and_labels(batch)[0]
        found |= {row: images[row - start].cpu() for row in rows if start <= row < start + len(images)}
        start += len(images)
    return torch.stack([found[row] for row in rows]) if rows else torch.empty(0, 1, 1, 1)
