"""Verification curve: integer counts of the genuine and impostor pairs that each threshold accepts."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from arcface_pl.metrics.functional.validation import check, check_fraction


class ROC(NamedTuple):
    """Receiver operating characteristic, from the strictest threshold to the most lenient.

    Attributes:
        far: False accept rates, (K,), float64, increasing from 0 to 1.
        tar: True accept rates, (K,), float64, increasing from 0 to 1.
        thresholds: (K,), decreasing; the first is inf and accepts nothing.
    """

    far: Tensor
    tar: Tensor
    thresholds: Tensor


class Rates(NamedTuple):
    """False and true accept rate at one threshold, as fractions."""

    far: float
    tar: float


@dataclass(frozen=True, eq=False)
class VerificationCurve:
    """Counts from which every error rate of a verification follows; a pair is accepted if score >= threshold.

    Attributes:
        thresholds: (K,), strictly decreasing; the first is inf and accepts nothing, the last accepts every pair.
        genuine: Genuine pairs accepted at each threshold, (K,), int64.
        impostor: Impostor pairs accepted at each threshold, (K,), int64.
        unresolved: (K,), bool; True where the step that leads to a point may hide several scores (a bin of a
            histogram). The point itself is exact.
    """

    thresholds: Tensor
    genuine: Tensor
    impostor: Tensor
    unresolved: Tensor

    @classmethod
    def from_counts(
        cls, values: Tensor, genuine: Tensor, impostor: Tensor, unresolved: Tensor | None = None
    ) -> "VerificationCurve":
        """Sort scores with their counts and merge equal ones.

        Args:
            values: Scores, or the lower edges of bins of scores, (M,), in any order.
            genuine: How many genuine pairs each stands for, (M,), int64.
            impostor: How many impostor pairs each stands for, (M,), int64.
            unresolved: Which of the values are bins, (M,), bool; none by default.
        """
        values, order = values.sort(descending=True)
        unresolved = torch.zeros_like(order, dtype=torch.bool) if unresolved is None else unresolved[order]
        last = torch.ones_like(unresolved)
        last[:-1] = values[1:] != values[:-1]
        start = torch.zeros_like(order[:1])
        return cls(
            torch.cat((values.new_full((1,), torch.inf), values[last])),
            torch.cat((start, genuine[order].cumsum(0)[last])),
            torch.cat((start, impostor[order].cumsum(0)[last])),
            torch.cat((start.bool(), unresolved[last])),
        )

    @property
    def num_genuine(self) -> int:
        """Number of genuine pairs."""
        return int(self.genuine[-1])

    @property
    def num_impostor(self) -> int:
        """Number of impostor pairs."""
        return int(self.impostor[-1])

    def roc(self) -> ROC:
        """Return the counts as rates."""
        return ROC(
            self.impostor.double() / self.num_impostor, self.genuine.double() / self.num_genuine, self.thresholds
        )

    def index_at_far(self, far: float) -> int:
        """Return the last point whose FAR is at most ``far``."""
        return int((self.roc().far <= check_fraction("far", far)).sum()) - 1

    def index_at_crossing(self) -> int:
        """Return the first point whose FAR is at least its FRR, at least 1."""
        far, tar, _ = self.roc()
        index = int((far < 1 - tar).sum())  # off by a few where rounding makes equal rates differ
        while self._excess(index) < 0:
            index += 1
        while self._excess(index - 1) >= 0:
            index -= 1
        return index

    def index_at_threshold(self, threshold: float) -> int:
        """Return the last point whose threshold is at least ``threshold``."""
        check(threshold == threshold, "threshold", threshold, "a number")
        return int((self.thresholds >= threshold).sum()) - 1

    def tar_at_far(self, far: float) -> tuple[float, float]:
        """Return the largest TAR whose FAR is at most ``far``, and the lowest threshold that gives it."""
        index = self.index_at_far(far)
        self._require_resolved(index + 1, f"far {far}")
        return int(self.genuine[index]) / self.num_genuine, float(self.thresholds[index])

    def rates_at_threshold(self, threshold: float) -> Rates:
        """Return FAR and TAR at a threshold that was chosen on other pairs."""
        index = self.index_at_threshold(threshold)
        self._require_resolved(index + 1, f"threshold {threshold}")
        return Rates(int(self.impostor[index]) / self.num_impostor, int(self.genuine[index]) / self.num_genuine)

    def equal_error_rate(self) -> tuple[float, float]:
        """Return where the linearly interpolated ROC meets TAR = 1 - FAR, and the threshold nearest to that point."""
        index = self.index_at_crossing()
        self._require_resolved(index, "the equal error rate")
        before, after = self._excess(index - 1), self._excess(index)
        nearest = index if after <= -before else index - 1
        far = [int(count) / self.num_impostor for count in self.impostor[index - 1 : index + 1]]
        return far[0] + (far[1] - far[0]) * (before / (before - after)), float(self.thresholds[nearest])

    def auc(self) -> float:
        """Return the area under the ROC: P(genuine > impostor), ties counted as a half."""
        far, tar, _ = self.roc()
        return float(torch.trapezoid(tar, far))

    def auc_error(self) -> float:
        """Return how far ``auc`` can be off since pairs in one unresolved step count as ties; 0 without such."""
        far, tar, _ = self.roc()
        hidden = far.diff() * tar.diff() * self.unresolved[1:]
        return float(hidden.sum()) / 2

    def _excess(self, index: int) -> int:
        # (FAR - FRR) * G * I: Python's integers neither round nor overflow
        refused = self.num_genuine - int(self.genuine[index])
        return int(self.impostor[index]) * self.num_genuine - refused * self.num_impostor

    def _require_resolved(self, index: int, what: str) -> None:
        if index < len(self.unresolved) and self.unresolved[index]:
            raise ValueError(
                f"{what}: got a value between two points of this curve; expected one that all_pairs_curve was given"
            )
