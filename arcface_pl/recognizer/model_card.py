"""The model card: a README.md that describes a trained model, with measured numbers only."""

import re

from arcface_pl.errors import printable
from arcface_pl.evaluation.thresholds import Calibration, OperatingPoint
from arcface_pl.recognizer.trained import TrainedModel

# Logged key and label; accuracies are fractions, angles degrees
_MEASURES = (
    ("accuracy", "accuracy"),
    ("loss", "loss"),
    ("val/angle/target_mean", "mean angle to the target class"),
    ("val/angle/nearest_other_mean", "mean angle to the nearest other class"),
)


def model_card(model: TrainedModel) -> str:
    """Describe a model in Markdown.

    Args:
        model: The model.

    Returns:
        The text of a ``README.md``.
    """
    backbone, head, to_input = model.backbone, model.head, model.preprocessor
    order = ", sees BGR; pictures are RGB" if to_input.channel_order == "bgr" else ""
    count = sum(weight.numel() for part in (backbone, head) for weight in part.parameters())
    return f"""\
# {type(backbone).__name__} with {type(head).__name__}

Maps a picture to an embedding of {head.embedding_dim} numbers; embeddings of one class point in similar directions.
 Trained with arcface_pl{f" on {_plain(model.dataset_name)}" if model.dataset_name else ""}.

| | |
|---|---|
| backbone | {type(backbone).__name__}, {to_input.in_channels} x {to_input.image_size} x {to_input.image_size}{order} |
| head | {type(head).__name__} |
| parameters | {count:,} |
| classes | {_listed(model.class_names)} |

## Measured

{_measured(model.metrics)}

## Thresholds

{_thresholds(model.calibration)}

## Use

```python
from arcface_pl import Recognizer

recognizer = Recognizer.from_pretrained("path/of/this/folder")
print(recognizer.classify("picture.png"))
```

Loading it needs no network access and runs no code from the files.
"""


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(_plain, names[:20]))
    return f"{len(names):,}: {shown}{', ...' if len(names) > 20 else ''}"


def _plain(text: str) -> str:
    """Escape control characters and Markdown's and HTML's markup."""
    return re.sub(r"([\\`*\[\]<>&|])", r"\\\1", printable(text))


def _measured(metrics: dict[str, float]) -> str:
    rows = []
    for key, label in _MEASURES:
        # Validation angles are logged without a prefix
        keys = (key if key.startswith("angle") else f"val/{key}", f"test/{key}")
        if not any(each in metrics for each in keys):
            continue
        cells = (_number(key, metrics[each]) if each in metrics else "" for each in keys)
        rows.append(f"| {label} | {' | '.join(cells)} |")
    if not rows:
        return "Nothing was measured."
    return "\n".join(("| | validation | test |", "|---|---:|---:|", *rows))


def _number(key: str, value: float) -> str:
    if key == "accuracy":
        return f"{value:.2%}"
    return f"{value:.1f}\N{DEGREE SIGN}" if key.startswith("angle") else f"{value:.4f}"


def _thresholds(calibration: Calibration | None) -> str:
    if calibration is None:
        return "No threshold was measured: nothing is called unknown."
    rows = [
        f"| {label} | {point.threshold:.4f} | {_rate(point)} | {point.tar:.2%} | {point.eer:.2%} |"
        for label, point in (
            ("two pictures", calibration.verification),
            ("class of a picture", calibration.classification),
        )
        if point is not None
    ]
    return "\n".join(
        (
            f"Chosen for a false accept rate of {calibration.far:g} on {calibration.num_images:,} pictures "
            f"({calibration.source}). Among other classes than these the rate may be higher.",
            "",
            "| decision | cosine at least | false accepts | true accepts | equal error rate |",
            "|---|---:|---:|---:|---:|",
            *rows,
        )
    )


def _rate(point: OperatingPoint) -> str:
    return f"{round(point.far * point.num_impostor):,} of {point.num_impostor:,}"
