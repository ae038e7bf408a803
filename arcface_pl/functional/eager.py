"""`eager`: what torch.compile leaves alone."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def eager(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a function out of compiled graphs, as ``torch.compiler.disable`` does.

    That one imports the compiler, which takes a second, where it is written; this one where something is compiled.

    Args:
        function: A function or method.

    Returns:
        It, called by Python also from compiled code.
    """
    disabled: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            return function(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*args, **kwargs)

    return call
