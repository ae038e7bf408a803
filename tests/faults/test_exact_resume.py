"""A run that was stopped and goes on ends as if nobody had stopped it: no tolerance, in any of 64 kinds of run."""

import json
import os
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from genuine import same
from PIL import Image

CHILD = Path(__file__).with_name("resume_child.py")
FACTORS: dict[str, tuple[Any, Any]] = {
    "middle": (False, True),
    "workers": (0, 2),
    "processes": (1, 2),
    "dropout": (False, True),
    "augment": (False, True),
    "accumulate": (1, 4),
}
# Each value of each factor meets each value of each other one.
PAIRWISE = ("000000", "011101", "101011", "110110", "001110", "110001")
FULL = tuple("".join(bits) for bits in product("01", repeat=len(FACTORS)))


def cell(bits: str, seed: int = 1) -> dict[str, Any]:
    values = {name: FACTORS[name][int(bit)] for name, bit in zip(FACTORS, bits, strict=True)}
    return {"name": f"{bits}-{seed}", "seed": seed, **values}


def run(folder: Path, cells: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Train every cell; returns what each process wrote down, by the cell's name."""
    generator = torch.Generator().manual_seed(0)
    for label in range(4):
        (folder / "images" / str(label)).mkdir(parents=True)
        for number in range(24):
            pixels = torch.randint(0, 256, (8, 8), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / "images" / str(label) / f"{number}.png")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    environment.pop("PL_GLOBAL_SEED", None)
    found = {}
    for processes in (1, 2):
        chosen = [each for each in cells if each["processes"] == processes]
        if not chosen:
            continue
        command = [sys.executable, str(CHILD), str(folder), str(processes), json.dumps(chosen)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
        for each in chosen:
            paths = [folder / f"{each['name']}-{rank}.pt" for rank in range(processes)]
            found[each["name"]] = [torch.load(path, weights_only=True) for path in paths]
    return found


def check(chosen: dict[str, Any], ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        whole, first, rest = rank["whole"], rank["first"], rank["rest"]
        assert not first["finished"]
        assert whole["finished"]
        assert rest["finished"]
        # Stopped where it was to be: at an optimizer step, within an epoch or at its end.
        stopped_within = len(first["seen"]) % whole["batches"] != 0
        assert stopped_within == chosen["middle"], chosen["name"]
        assert first["step"] < whole["step"]
        assert first["seen"] + rest["seen"] == whole["seen"], chosen["name"]
        assert (first["metrics"] + rest["metrics"])[-2:] == whole["metrics"][-2:], chosen["name"]
        for part in ("weights", "optimizer", "step", "best"):
            assert same(whole[part], rest[part]), (chosen["name"], part)


def test_the_covering_set_covers_every_pair() -> None:
    for one, other in combinations(range(len(FACTORS)), 2):
        assert {row[one] + row[other] for row in PAIRWISE} == {"00", "01", "10", "11"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    cells = [cell(bits) for bits in PAIRWISE]
    again, other = cell(PAIRWISE[1]), cell(PAIRWISE[1], seed=2)
    again["name"] = "again"
    found = run(tmp_path, [*cells, again, other])
    for each in cells:
        check(each, found[each["name"]])
    for first, second, third in zip(found[cells[1]["name"]], found["again"], found[other["name"]], strict=True):
        assert first["whole"]["seen"] == second["whole"]["seen"]
        assert same(first["whole"]["weights"], second["whole"]["weights"])
        losses = zip(first["whole"]["seen"], third["whole"]["seen"], strict=True)
        assert all(one[4] != another[4] for one, another in losses)


@pytest.mark.slow
@pytest.mark.timeout(1900)
@pytest.mark.parametrize("first", range(0, len(FULL), 4))
def test_in_every_combination(tmp_path: Path, first: int) -> None:
    cells = [cell(bits) for bits in FULL[first : first + 4]]
    found = run(tmp_path, cells)
    for each in cells:
        check(each, found[each["name"]])
