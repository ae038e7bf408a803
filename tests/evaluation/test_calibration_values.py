"""What a checkpoint keeps of a calibration."""

import math
from typing import Any

import pytest

from arcface_pl.evaluation.thresholds import Calibration, OperatingPoint

KEPT = Calibration(
    0.01, "val", 90, OperatingPoint(0.4, 0.01, 0.9, 0.05, 200, 3800), OperatingPoint(0.3, 0.01, 0.95, 0.02, 90, 81)
)


def test_a_calibration_is_restored_from_its_values() -> None:
    assert Calibration.from_dict(KEPT.to_dict()) == KEPT
    alone = KEPT.to_dict() | {"classification": None}
    assert Calibration.from_dict(alone).classification is None


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"far": math.nan}, "a number is missing"),
        ({"verification": None}, "a number is missing"),
        ({"verification": {"threshold": 0.1}}, "missing"),
        ({"far": "much"}, "could not convert"),
        ({"num_images": None}, "int"),
    ],
)
def test_values_that_are_no_calibration_are_refused(change: dict[str, Any], cause: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^calibration: got .*; expected the dict of Calibration.to_dict \(.*{cause}"
    ):
        Calibration.from_dict(KEPT.to_dict() | change)
    values = KEPT.to_dict()
    del values["source"]
    with pytest.raises(ValueError, match=r"^calibration: .*\('source'\)"):
        Calibration.from_dict(values)
