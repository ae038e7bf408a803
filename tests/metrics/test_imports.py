"""What importing the metrics, the figures and the backbones may import."""

import subprocess
import sys

import pytest

HEAVY = ("torchmetrics", "matplotlib", "scipy", "torchvision", "lightning")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("arcface_pl.metrics.functional, arcface_pl.figures", (*HEAVY, "torch._dynamo")),
        ("arcface_pl.backbones", HEAVY),
    ],
)
def test_importing_it_imports_nothing_heavy(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, torch, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]"]
