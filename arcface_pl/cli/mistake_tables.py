"""mistakes.csv and confusions.csv: what a classifier got wrong, by image and by pair of classes."""

from collections.abc import Sequence
from pathlib import Path

from arcface_pl.cli.result_files import write_csv_result
from arcface_pl.evaluation.judged import Judged
from arcface_pl.figures.confusion import count_confusions, worst_confusions

MISTAKES = (
    "index",
    "file",
    "label",
    "prediction",
    "angle_degrees",
    "predicted_angle_degrees",
    "margin_degrees",
)
CONFUSIONS = ("label", "prediction", "images", "share_of_class")


def write_mistakes(
    path: Path, judged: Judged, class_names: Sequence[str], files: Sequence[str] | None, *, option: str | None = None
) -> Path:
    """Write a row per wrong prediction, those farthest from the truth first.

    The columns: the image's position in the split, its file if it has one, true and predicted class by name, the angle
    to the center of each, and by how much the true center is nearer than that of the nearest other class.

    Args:
        path: Where to.
        judged: All images.
        class_names: Names of the classes, in label order.
        files: The images' files, if they are files.
        option: As for `write_csv_result`.
    """
    rows = []
    for index in judged.mistakes().tolist():
        names = (class_names[int(each[index])] for each in (judged.labels, judged.predictions))
        angles = (judged.target_angle[index], judged.predicted_angle[index], judged.margin[index])
        rows.append([index, files[index] if files else None, *names, *(round(float(angle), 3) for angle in angles)])
    return write_csv_result(path, MISTAKES, rows, option=option)


def write_confusions(path: Path, judged: Judged, class_names: Sequence[str], *, option: str | None = None) -> Path:
    """Write a row per pair of classes of which one was taken for the other, the most frequent first.

    Args:
        path: Where to.
        judged: All images.
        class_names: Names of the classes, in label order.
        option: As for `write_csv_result`.
    """
    counts = count_confusions(judged.labels, judged.predictions, len(class_names))
    rows = [
        [class_names[label], class_names[prediction], number, round(share, 4)]
        for label, prediction, number, share in worst_confusions(counts)
    ]
    return write_csv_result(path, CONFUSIONS, rows, option=option)
