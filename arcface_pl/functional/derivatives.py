"""Refusal of derivatives that are not implemented, where autograd would return zeros or leave terms out."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from arcface_pl.errors import expected


def first_order_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the ``backward`` of a `torch.autograd.Function` that cannot be differentiated again.

    `torch.autograd.function.once_differentiable` raises only where a gradient that comes in requires one itself; the
    second derivative of a plain sum would silently be 0.
    """

    @functools.wraps(backward)
    def checked(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            remedy = "Take second derivatives of head(embeddings, labels), whose logits have them"
            raise ValueError(expected("create_graph", True, "False: this loss has first derivatives only", remedy))
        return backward(ctx, *grads)

    return checked
