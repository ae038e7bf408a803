"""A whole run inside a Jupyter notebook, executed by its own kernel."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

CELLS = [
    """
import warnings; warnings.simplefilter("ignore")
import lightning as L, torch
from functools import partial
from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule, callbacks
""",
    """
logger = callbacks.RunLogger("runs")
bars = [callbacks.RunProgressBar(), callbacks.EpochLines(), callbacks.RunCheckpoint(), callbacks.EndTogether(),
        callbacks.HealthCheck()]
trainer = L.Trainer(max_epochs=2, accelerator="cpu", devices=DEVICES, strategy=STRATEGY, logger=logger, callbacks=bars,
                    use_distributed_sampler=False, num_sanity_val_steps=0, enable_model_summary=False)
module = ArcFaceModule(FastCNN(16, width=4), ArcFaceHead(16, 10), partial(torch.optim.Adam, lr=1e-2), num_threads=1)
data = MNISTDataModule(dataset="digits", batch_size=100)
print(trainer.logger.log_dir)
trainer.fit(module, datamodule=data)
""",
    """
policy = trainer.checkpoint_callback
(scores,) = trainer.test(module, datamodule=data, ckpt_path=policy.path, weights_only=True)
print("finished", policy.best_score > 0.3, scores["test/accuracy"] > 0.3)
""",
    """
%matplotlib inline
import matplotlib.pyplot as plt
plt.plot([0, 1]); plt.show()
""",
]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("strategy", "devices"), [("auto", 1), ("ddp_notebook", 2)])
def test_a_run_in_a_notebook(tmp_path: Path, strategy: str, devices: int) -> None:
    pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    cells = [cell.replace("DEVICES", str(devices)).replace("STRATEGY", repr(strategy)) for cell in CELLS]
    code = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "cells": [{**code, "id": f"cell{number}", "source": text.strip()} for number, text in enumerate(cells)],
    }
    (tmp_path / "run.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    convert = ["nbconvert", "--to", "notebook", "--execute", "--output", "done", "run.ipynb"]
    command = [sys.executable, "-m", "jupyter", *convert]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [cell["outputs"] for cell in json.loads((tmp_path / "done.ipynb").read_text(encoding="utf-8"))["cells"]]
    text = ["".join("".join(each.get("text", "")) for each in cell) for cell in outputs]
    assert "finished True True" in text[2]
    assert "Epoch 2/2" in text[1] or "application/vnd.jupyter.widget-view+json" in json.dumps(outputs[1])
    assert "epoch     loss  val acc" in text[1]
    assert re.search(r"^ *2/2 +\d+\.\d{4} +\d+\.\d\d%", text[1].replace("\r", "\n"), re.MULTILINE)
    assert "image/png" in json.dumps(outputs[3])
