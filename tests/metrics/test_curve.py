"""The curve's answers next to steps that hide several scores: exact points answer, hidden ones are refused."""

import pytest
import torch

from arcface_pl.metrics.functional import VerificationCurve


def curve(*unresolved: bool) -> VerificationCurve:
    """Scores 4, 3, 2, 1 with genuine pairs 4, 2, 1, 1 and impostor pairs 0, 2, 2, 4; FAR 0, 0.25, 0.5, 1."""
    return VerificationCurve.from_counts(
        torch.tensor([4.0, 3.0, 2.0, 1.0]),
        torch.tensor([4, 2, 1, 1]),
        torch.tensor([0, 2, 2, 4]),
        torch.tensor(unresolved),
    )


def test_a_point_before_a_hidden_step_is_refused_and_the_point_after_it_is_exact() -> None:
    hidden = curve(False, True, False, False)  # the step from score 4 to score 3
    with pytest.raises(ValueError, match=r"^far 0.2: got a value between two points"):
        hidden.tar_at_far(0.2)  # FAR 0 at score 4 is the last known point; a score above 3 may have FAR <= 0.2
    with pytest.raises(ValueError, match=r"^threshold 3.5: got a value between two points"):
        hidden.rates_at_threshold(3.5)
    assert hidden.tar_at_far(0.25) == (0.75, 3.0)
    assert hidden.rates_at_threshold(3.0) == (0.25, 0.75)


def test_the_last_step_and_the_first() -> None:
    hidden = curve(True, False, False, True)
    with pytest.raises(ValueError, match="far 0.9"):
        hidden.tar_at_far(0.9)
    with pytest.raises(ValueError, match="threshold 5"):
        hidden.rates_at_threshold(5)
    assert hidden.tar_at_far(1.0) == (1.0, 1.0)
    assert hidden.rates_at_threshold(-1.0) == (1.0, 1.0)


def test_the_crossing_needs_the_step_that_leads_to_it() -> None:
    # FAR - FRR: -0.5 at score 4, 0 at score 3
    assert curve(True, False, True, True).equal_error_rate() == (0.25, 3.0)
    with pytest.raises(ValueError, match="the equal error rate: got a value between two points"):
        curve(False, True, False, False).equal_error_rate()


def test_hidden_pairs_bound_the_error_of_the_area() -> None:
    assert curve(False, False, False, False).auc_error() == 0
    # Between scores 4 and 3: a rectangle of FAR 0.25 by TAR 0.25, of which a tie counts half
    assert curve(False, True, False, False).auc_error() == pytest.approx(0.25 * 0.25 / 2)


def counted(genuine: list[int], impostor: list[int]) -> VerificationCurve:
    scores = torch.arange(len(genuine), 0, -1, dtype=torch.float32)
    return VerificationCurve.from_counts(scores, torch.tensor(genuine), torch.tensor(impostor))


def test_the_crossing_is_found_where_floats_round_past_it() -> None:
    # FAR = FRR = 1/3 at the first score, but 1 - 2/3 > 1/3 in floats
    assert 1 - 2 / 3 > 1 / 3
    assert counted([2, 1, 0], [1, 1, 1]).index_at_crossing() == 1


def test_the_crossing_is_found_where_floats_round_short_of_it() -> None:
    # FAR is one pair of 2**60 below FRR = 1/2 at the first score, and equal to it in floats
    assert (2**59 - 1) / 2**60 == 1 / 2
    assert counted([1, 0, 1], [2**59 - 1, 1, 2**59]).index_at_crossing() == 2
