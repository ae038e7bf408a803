"""What importing the metrics and the figures may import."""

import subprocess
import sys

HEAVY = ("torchmetrics", "matplotlib", "scipy", "torchvision", "lightning", "torch._dynamo")


def test_functions_and_figures_import_nothing_heavy() -> None:
    code = (
        "import sys, torch, arcface_pl.metrics.functional, arcface_pl.figures\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
        "from arcface_pl.metrics import Retrieval\n"
        "print('torchmetrics' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "True"]
