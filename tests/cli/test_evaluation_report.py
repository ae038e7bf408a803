"""The table and the JSON name what a set of images does not allow."""

import io

import torch
from rich.console import Console

from arcface_pl.cli.evaluation_report import as_json, print_table
from arcface_pl.evaluation.measure import Embedded, evaluate


def test_what_was_not_measured_is_printed_and_written() -> None:
    lone = evaluate(Embedded(torch.randn(3, 8), torch.arange(3)), list("abc"))
    enough = evaluate(Embedded(torch.randn(202, 8), torch.arange(202) % 2), list("ab"))
    sets = {"unseen": lone, "held_out": enough}
    reason = "verification, retrieval and identification: no class has two images"
    written = as_json(sets)
    assert written["unseen"]["not_measured"] == [reason]
    assert "not_measured" not in written["held_out"]
    output = io.StringIO()
    print_table(Console(file=output, width=200), "digits", "test", sets)
    assert f"other classes: not measured: {reason}" in output.getvalue()
    assert "held-out classes: not measured" not in output.getvalue()
