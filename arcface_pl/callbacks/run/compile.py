"""torch.compile for training steps only; parameter names and checkpoints are unaffected."""

from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn

from arcface_pl.errors import UserError

CompileMode = Literal["default", "reduce-overhead"]


class CompilerError(UserError):
    """torch.compile does not work on this machine."""


def check_compiler(device: torch.device) -> None:
    """Compile a sine, which shows within seconds whether torch.compile works.

    Args:
        device: Where it is to work.

    Raises:
        CompilerError: If it does not.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except Exception as error:  # a missing compiler, a missing Triton and a newer Python raise different classes
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CompilerError(
            f"model.compile: torch.compile does not work on {device.type} here ({reason}); expected null, or an "
            "installed compiler: C++ for a CPU, Triton for a GPU"
        ) from error


class CompileTraining(L.Callback):
    """Runs ``module.backbone`` through torch.compile in training mode; evaluation stays eager.

    Args:
        mode: torch.compile's mode; "reduce-overhead" replays CUDA graphs on a GPU.
    """

    def __init__(self, mode: CompileMode = "default") -> None:
        self.mode = mode

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compile; only now, because TensorBoard's graph is traced from the eager network."""
        self.compile(pl_module.backbone)  # type: ignore[arg-type]

    def on_train_end(self, trainer: L.Trainer, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """Make the network eager again."""
        self.uncompile(pl_module.backbone)

    on_exception = on_train_end

    def compile(self, backbone: nn.Module) -> None:
        """Replace ``backbone.forward``; the first step with each batch size waits for the compiler."""
        eager = backbone.forward
        # One graph per batch size. torch would otherwise make one for several, depending on which sizes came before, so
        # that a resumed run would differ from the uninterrupted one.
        compiled = torch.compile(eager, mode=self.mode, dynamic=False)

        def forward(images: Tensor) -> Any:
            return compiled(images) if backbone.training else eager(images)

        # Not nn.Module.compile, which would compile the hooks too
        backbone.forward = forward

    def uncompile(self, backbone: nn.Module) -> None:
        """Undo `compile`, if it was called."""
        vars(backbone).pop("forward", None)
