"""The benchmark runs, and its contenders agree."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmarks" / "all_pairs_speed.py"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_contenders_agree(tmp_path):
    contenders = [
        "verification/arcface_pl",
        "verification/scikit-learn",
        "retrieval/arcface_pl",
        "retrieval/scikit-learn",
    ]
    sizes = ["--num_embeddings", "300", "--dim", "16", "--threads", "1", "--repeats", "1"]
    command = [sys.executable, str(SCRIPT), *sizes, "--only", *contenders, "--json", str(tmp_path / "out.json")]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert all(name in table for name in contenders)
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    ours, theirs, our_recall, their_recall = (results[name][0]["answer"] for name in contenders)
    assert ours == pytest.approx(theirs, abs=1e-12)
    assert our_recall == their_recall
