"""What `HealthCheck` says: what was seen, what it means, and what to do."""

__all__ = ["collapse", "guessing", "learning_rate", "long", "missing", "opposite", "short", "stuck_loss"]

_SLOWER = "a lower learning rate (--model.optimizer.lr)"


def stuck_loss(loss: float, untrained: float, scale: float | None) -> str:
    """Say that the loss does not fall."""
    cause = "" if scale is None else f" (all angles at 90 degrees; the scale is {scale:g})"
    return (
        f"the loss is {loss:.1f}, where a network that has learnt nothing stands at {untrained:.1f}{cause}. Try "
        f"{_SLOWER}, a margin that grows (--model.head.margin_warmup_epochs 2), or a smaller margin or "
        "scale (--model.head.margin, --model.head.scale)."
    )


def opposite(angle: float, *, unguarded: bool) -> str:
    """Say that embeddings turn away from their class."""
    cause = (
        "The head's extension is none: past pi minus the margin its loss falls again, so that pi is a minimum. Use "
        "--model.head.extension monotone."
        if unguarded
        else f"Try {_SLOWER}, and look whether the labels fit the images."
    )
    return f"embeddings lie {angle:.0f} degrees from the center of their own class, turned away from it. {cause}"


def collapse(cosine: float) -> str:
    """Say that all embeddings are the same."""
    return (
        f"images of different classes have nearly the same embedding (mean cosine {cosine:.4f}). Look whether the "
        f"images still differ after preprocessing and normalisation, and try {_SLOWER}."
    )


def long(length: float) -> str:
    """Say that embeddings are too long."""
    return (
        f"embeddings have a median length of {length:.3g}: the network's weights explode, and the longer an embedding, "
        f"the less a step turns it. Try {_SLOWER}, weight decay (--model.optimizer.weight_decay) or "
        "--gradient_clip_val 1."
    )


def short(length: float) -> str:
    """Say that embeddings are too short."""
    return (
        f"embeddings have a median length of {length:.3g}: hardly a direction is left, and nothing can be learnt from "
        f"it. Try {_SLOWER} or less weight decay, and look whether the images are all black."
    )


def missing(names: list[str], num_classes: int) -> str:
    """Name the classes that never appear."""
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
    return (
        f"{len(names):,} of {num_classes:,} classes had no image in a whole epoch: {shown}. They are never learnt, and "
        "their centers only push the others away. Look whether the training part has their images, or leave them out."
    )


def learning_rate(groups: list[str]) -> str:
    """Say whose learning rate is zero."""
    return (
        f"the learning rate of {' and '.join(groups)} is 0, so that nothing is learnt there. Look at "
        "--model.optimizer.lr, --model.head_lr and --model.lr_schedule."
    )


def guessing(accuracy: float, guess: float) -> str:
    """Say that accuracy is that of guessing."""
    return (
        f"accuracy on validation is {accuracy:.2%}, not to be told from guessing ({guess:.2%} by always naming the "
        "commonest class). If the loss falls all the same, look whether training and validation images are "
        "preprocessed alike and the labels are right; if it does not, try another learning rate (--model.optimizer.lr)."
    )
