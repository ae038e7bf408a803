from pathlib import Path

import pytest
import torch
import yaml

from arcface_pl.cli import main
from arcface_pl.cli.machine import choose_precision, cpu_quota


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": False, "avx512_bf16": False, "avx2": True}, "32-true"),
        ({"neon": True}, "32-true"),
    ],
)
def test_bfloat16_only_where_the_processor_multiplies_it(instructions: dict[str, bool], expected: str) -> None:
    assert choose_precision("cpu", instructions) == expected


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_is_asked_for_what_it_does_itself(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert choose_precision("auto", {}) == ("bf16-mixed" if supported else "32-true")
    assert choose_precision("cpu", {}) == "32-true"


def printed(capsys: pytest.CaptureFixture, *flags: str) -> str:
    main(["fit", "--data.dataset", "digits", "--accelerator", "cpu", *flags, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)["trainer"]["precision"]


def test_the_choice_is_saved_as_if_typed_and_a_flag_overrules_it(capsys: pytest.CaptureFixture) -> None:
    assert printed(capsys, "--precision", "auto") == choose_precision("cpu")
    assert printed(capsys, "--precision", "64-true") == "64-true"
    fast = Path(__file__).parents[2] / "arcface_pl" / "configs" / "fast.yaml"
    assert printed(capsys, "--config", str(fast), "--precision", "32-true") == "32-true"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_limit_is_read(files: dict[str, str], expected: int | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == expected
