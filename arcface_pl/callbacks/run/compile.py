"""Training steps through torch.compile: what is learnt and kept is the same network under the same names."""

from typing import Literal

import torch
from torch import Tensor

from arcface_pl.backbones import Backbone
from arcface_pl.errors import UserError

__all__ = ["CompileMode", "CompilerError", "check_compiler", "compile_training_steps", "uncompile"]

CompileMode = Literal["default", "reduce-overhead"]


class CompilerError(UserError):
    """There is nothing here that torch.compile could compile with."""


def check_compiler(device: torch.device) -> None:
    """Compile a sine, which shows in seconds whether torch.compile works.

    Args:
        device: Where it is to work.

    Raises:
        CompilerError: If it does not.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except Exception as error:  # whatever a missing compiler, a missing Triton or a newer Python brings torch to raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CompilerError(
            f"model.compile: torch.compile does not work on {device.type} here ({reason}); accepts null, or install "
            "what it compiles with: a C++ compiler for a CPU, Triton for a GPU"
        ) from error


def compile_training_steps(backbone: Backbone, mode: CompileMode) -> None:
    """Have ``backbone`` run compiled while in training mode; parameters, hooks and evaluation stay as they are.

    Args:
        backbone: The network; its first step with each batch size takes the time to compile.
        mode: torch.compile's; "reduce-overhead" replays CUDA graphs on a GPU.
    """
    uncompile(backbone)  # a fit that ended in an exception has not
    eager = backbone.forward
    # A graph for each batch size: one that serves several rounds otherwise, and whether there is one would depend on
    # which sizes came before, so that a resumed run would not be the uninterrupted one.
    compiled = torch.compile(eager, mode=mode, dynamic=False)

    def forward(images: Tensor) -> Tensor:
        return compiled(images) if backbone.training else eager(images)

    # Not nn.Module.compile, which would compile the hooks too
    backbone.forward = forward


def uncompile(backbone: Backbone) -> None:
    """Undo `compile_training_steps`, where it was done."""
    vars(backbone).pop("forward", None)
