"""``evaluate``: what is measured on a data module, and its table, JSON and figures."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from arcface_pl.checkpoints.results import check_result
from arcface_pl.cli.parser import cell
from arcface_pl.cli.result_files import write_json_result
from arcface_pl.data.protocol import fact, images_and_labels
from arcface_pl.errors import SettingsError
from arcface_pl.evaluation.measure import FAR, Evaluation, embed, evaluate
from arcface_pl.figures import AngleHistory, ClosedSet, Evaluated, Mistakes, count_degrees, save_all
from arcface_pl.figures.style import SOFTWARE
from arcface_pl.metrics.functional import target_angles
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
    "knn_accuracy": "k-NN accuracy, k = 5",
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


def evaluate_data(model: TrainedModel, data: Any, split: str, device: torch.device) -> dict[str, Evaluation]:
    """Evaluate a data module's classes and those it holds out.

    Args:
        model: The trained model.
        data: A data module after ``setup``.
        split: "val" or "test".
        device: Device of the network.

    Returns:
        By set: ``trained`` for classes that the head was trained on or ``unseen`` for others, and ``held_out``.
    """
    batches: Any = data.test_dataloader() if split == "test" else []
    if split == "val" and fact(data, "num_val"):
        batches = data.val_dataloader()
    pairs = getattr(data, "pairs", None) if split == "test" else None
    is_trained = list(data.class_names) == model.class_names
    sets: dict[str, Any] = {"trained" if is_trained else "unseen": (batches, data.class_names)} if batches else {}
    if fact(data, "held_out_class_names") and (unseen := data.held_out_dataloader(split)):
        sets["held_out"] = (unseen, data.held_out_class_names)
    if not sets:
        kind = {"val": "validation"}.get(split, split)
        raise SettingsError(f"--split {split}: {type(data).__name__} has no {kind} images with these settings")
    roles = fact(data, "is_query", {}) if split == "test" else {}
    network = model.to(device).backbone
    embedded = {name: embed(network, batches, device) for name, (batches, _) in sets.items()}
    model.to("cpu")
    if "held_out" in sets:  # the other split may have other classes
        classes, labels = embedded["held_out"].labels.unique(return_inverse=True)
        embedded["held_out"] = embedded["held_out"]._replace(labels=labels)
        sets["held_out"] = (unseen, [data.held_out_class_names[label] for label in classes.tolist()])
    return {
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


def write(path: Path, results: dict[str, Any], chosen: bool, in_run: bool) -> Path:
    """Write the results as JSON.

    Args:
        path: Where to.
        results: Plain values.
        chosen: Whether the user chose ``path``.
        in_run: Whether ``path`` is in the folder of the checkpoint's run, where an older result is replaced.

    Returns:
        The file, which has another name than ``path`` if that was taken.

    Raises:
        SettingsError: If the file cannot be written.
    """
    try:
        return write_json_result(path, results, option="--json" if chosen else None, replace=in_run)
    except OSError as error:
        raise SettingsError(f"--json {path}: cannot be written ({error.strerror})") from None


def print_table(console: Console, dataset: str, split: str, found: dict[str, Evaluation]) -> None:
    """Print one table, a column a set of images."""
    table = Table(title=cell(f"{dataset}, {split}"), title_justify="left")
    table.add_column("")
    for name, each in found.items():
        table.add_column(
            f"{_TITLES[name]}: {cell(_listed(each.class_names))}\n{each.num_images:,} images", justify="right"
        )
    for kind, title in _KINDS.items():
        scores = [each.scores.get(kind, {}) for each in found.values()]
        shown = _LABELS.keys() - _NOT_SHOWN.get(kind, ())
        rows = [score for score in _LABELS if score in shown and any(score in each for each in scores)]
        if rows:
            table.add_section()
            table.add_row(f"[bold]{title}", *map(_count, scores))
        for score in rows:
            cells = (_shown(score, each.scores.get(kind, {}).get(score), each) for each in found.values())
            table.add_row(f"  {_LABELS[score]}", *cells)
    console.print(table)
    for name, each in found.items():
        for text in each.not_measured:
            console.print(cell(f"{_TITLES[name]}: not measured: {text}"))


def _listed(names: list[str]) -> str:
    return ", ".join(names) if sum(map(len, names)) < 24 else f"{len(names)}"


def _count(scores: dict[str, float]) -> str:
    total = scores.get("num_genuine", 0) + scores.get("num_impostor", 0)
    return f"{total:,} pairs" if total else f"{scores['num_runs']:,} runs" if "num_runs" in scores else ""


def _shown(score: str, value: float | None, each: Evaluation) -> str:
    if value is None:
        return ""
    if score.endswith("_mean"):
        return f"{value:.1f}\N{DEGREE SIGN}"
    if score == "accuracy":
        return f"{value:.2%} ({round(value * each.num_images):,})"
    return f"{value:.4f}" if score == "auc" else f"{value:.2%}"


@torch.no_grad()
def save_figures(
    model: TrainedModel, data: Any, split: str, found: dict[str, Evaluation], folder: Path, history: AngleHistory | None
) -> list[Path]:
    """Draw what there is to draw of each set, in a folder a set; with the trained classes, the angles over training.

    Raises:
        SettingsError: If a file cannot be written.
    """
    paths = []
    for name, each in found.items():
        closed, trained = None, name == "trained"
        if trained:
            batches = data.val_dataloader() if split == "val" else data.test_dataloader()
            closed = _closed_set(model.head, each, batches)
        evaluated = Evaluated(split, each.class_names, *each.embedded, each.curve, closed, history if trained else None)
        try:
            paths += save_all(evaluated, folder / name)
        except OSError as error:
            raise SettingsError(f"--figures {folder}: cannot be written ({error.strerror})") from None
    return paths


def _closed_set(head: Any, each: Evaluation, batches: Any) -> ClosedSet:
    embeddings, labels = each.embedded
    predictions = head(embeddings).argmax(1)
    angles = torch.rad2deg(head.cosine(embeddings).double().clamp(-1, 1).acos())
    wrong = (predictions != labels).nonzero().flatten()
    images = torch.cat([images_and_labels(batch)[0].cpu() for batch in batches])[wrong]
    shown = (angles[wrong, classes[wrong]] for classes in (labels, predictions))
    own = target_angles(embeddings, labels, head.weight, sub_centers=head.sub_centers)
    counts = torch.bincount(labels * head.num_classes + predictions, minlength=head.num_classes**2)
    return ClosedSet(
        centers=head.weight.detach(),
        sub_centers=head.sub_centers,
        confusion=counts.view(head.num_classes, -1),
        angles=(count_degrees(torch.rad2deg(own.target)), count_degrees(torch.rad2deg(own.nearest_other))),
        mistakes=Mistakes(images, labels[wrong], predictions[wrong], *shown).hardest(MOST_MISTAKES),
        num_wrong=len(wrong),
        num_images=len(labels),
    )
