"""What the arguments of `ArcFaceModule` have to be."""

from typing import Any

from torch import nn

from arcface_pl.callbacks.run.freezing import check_freezing
from arcface_pl.errors import expected
from arcface_pl.functional.checks import check_count, check_number
from arcface_pl.heads import Head


def check_pair(backbone: nn.Module, head: Head) -> None:
    """Check that a backbone and a head can be trained together, and saved.

    Raises:
        ValueError: If they disagree on the width of embeddings, or one is not of its kind.
    """
    for role, network, kind, accepted in (
        ("backbone", backbone, nn.Module, "a torch.nn.Module"),
        ("head", head, Head, "a head of arcface_pl.heads, or a subclass of Head"),
    ):
        name = type(network).__name__
        if name == "OptimizedModule":  # its weights have other names, which no command would find in a checkpoint
            remedy = f"Call {role}.compile(...) in place of torch.compile({role}, ...)"
            raise ValueError(expected(role, f"{name}, which torch.compile returns", "the network itself", remedy))
        if not isinstance(network, kind):
            raise ValueError(expected(role, name, accepted))
    width = getattr(backbone, "embedding_dim", head.embedding_dim)
    if width != head.embedding_dim:
        accepted = f"{width}, the width of the backbone's embeddings"
        raise ValueError(expected("head.embedding_dim", head.embedding_dim, accepted))


def check_settings(module: Any) -> None:
    """Check the other arguments.

    Args:
        module: An `ArcFaceModule` that has them as attributes.

    Raises:
        ValueError: If one is out of range.
    """
    for name in ("head_lr", "backbone_lr_factor", "teacher_weight"):
        if (value := getattr(module, name)) is not None:
            check_number(name, value, low=0, low_open=True)
    check_number("head_sample_rate", module.head_sample_rate, low=0, low_open=True, high=1, high_open=False)
    if module.update_head_in_backward not in (False, True, "sgd"):
        raise ValueError(expected("update_head_in_backward", module.update_head_in_backward, "true, false or sgd"))
    if module.num_threads is not None:
        check_count("num_threads", module.num_threads, low=1)
    check_freezing(module)
