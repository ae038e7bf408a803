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


@pytest.mark.parametrize(("tar", "noticed"), [(0.49, True), (0.5, False)])
def test_a_threshold_that_rejects_most_known_images_is_noticed(tar: float, noticed: bool) -> None:
    point = OperatingPoint(0.93, 0.0, tar, 0.05, 442, 441)
    notice = Calibration(0.001, "validation", 442, KEPT.verification, point).notice
    assert (notice is not None) == noticed
    if notice is not None:
        assert "the threshold for known classes (0.930) accepts only 49.0% of the images" in notice
        assert "At a false accept rate of 0.001 the highest of 441 scores (validation) decide it" in notice
    assert Calibration(0.001, "validation", 442, KEPT.verification, None).notice is None
