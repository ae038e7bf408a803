"""Verification over all pairs of a set of embeddings, without ever holding the scores of all pairs.

The bits of a float32, read as an integer, are in the order of its value (reversed for negative ones). A first pass over
the blocks of `PairBlocks` counts the scores by their upper 20 bits. That already gives exact points of the ROC, at the
edges of these bins, and shows in which bins the wanted thresholds lie. A second pass, over the same blocks with the
same bits, counts the lower 12 bits within those bins: every single float32 value, so nothing is left to interpolate.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from arcface_pl.metrics.functional.curve import VerificationCurve
from arcface_pl.metrics.functional.pairs import BLOCK_SIZE, PairBlocks

__all__ = ["all_pairs_curve"]

_LOW_BITS = 12  # 2**20 bins of 8 bytes for each kind of pair is still quick to add to; at 2**22 it is not
_NUM_BINS = 1 << (32 - _LOW_BITS)
_BIN_WIDTH = 1 << _LOW_BITS


@torch.no_grad()
def all_pairs_curve(
    embeddings: Tensor,
    labels: Tensor,
    *,
    far: Sequence[float] = (1e-1, 1e-2, 1e-3),
    thresholds: Sequence[float] = (),
    block_size: int = BLOCK_SIZE,
) -> VerificationCurve:
    """Verify every embedding against every other: the curve of all N (N - 1) / 2 cosines, exact and in little memory.

    Memory beyond the normalised copy of the embeddings is about 40 MB, whatever N; time is that of two passes of
    N**2 D multiplications. The points of the curve are exact counts. It answers `equal_error_rate`, `tar_at_far` at the
    rates named here and `rates_at_threshold` at the thresholds named here exactly, as `verification_curve` would from
    the scores of `pair_scores`; elsewhere it raises. In `auc`, pairs whose scores share their upper 20 bits (a relative
    width of 2**-11) count as ties; `auc_error` bounds what that can change.

    Args:
        embeddings: (N, D), any real dtype, N >= 2; normalised here. A row of zeros scores 0 with all others.
        labels: Class of each, (N,), any integer dtype. A class of one member makes impostor pairs only.
        far: False accept rates, in [0, 1], at which the true accept rate will be asked for.
        thresholds: Cosines at which both rates will be asked for.
        block_size: Rows of a block of the computation.

    Returns:
        The curve; its thresholds are observed scores around every answer asked for, and edges of bins elsewhere.

    Raises:
        ValueError: If the shapes do not fit, an embedding holds NaN or infinity, a rate is outside [0, 1], or all pairs
            are genuine or all are impostor.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
        >>> curve = all_pairs_curve(embeddings, torch.tensor([0, 0, 1, 1]), far=[0.0])
        >>> curve.num_genuine, curve.num_impostor, curve.tar_at_far(0.0)[0]
        (2, 4, 1.0)
    """
    blocks = PairBlocks(embeddings, labels, block_size)
    counts = _count_bins(blocks)
    num_impostor, num_genuine = counts.sum(1).tolist()
    if not num_genuine or not num_impostor:
        missing = "impostor: all labels are equal" if num_genuine else "genuine: no label occurs twice"
        raise ValueError(f"labels must make genuine and impostor pairs, but no pair is {missing}")
    bins = counts.sum(0).nonzero().squeeze(1)
    edges = _bin_edges(bins)
    edges, order = edges.sort(descending=True)
    bins = bins[order]
    everywhere = torch.ones_like(bins, dtype=torch.bool)
    coarse = VerificationCurve.from_counts(edges, counts[1, bins], counts[0, bins], everywhere)
    wanted = torch.zeros_like(everywhere)
    wanted[_wanted_steps(coarse, far, thresholds)] = True
    values, fine = _count_within(blocks, bins[wanted])
    assert fine.sum(1).equal(counts[:, bins[wanted]].sum(1)), "two passes over the same blocks gave different scores"
    kept = ~wanted
    return VerificationCurve.from_counts(
        torch.cat((edges[kept], values)),
        torch.cat((counts[1, bins[kept]], fine[1])),
        torch.cat((counts[0, bins[kept]], fine[0])),
        torch.cat((everywhere[kept], torch.zeros_like(values, dtype=torch.bool))),
    )


def _count_bins(blocks: PairBlocks) -> Tensor:
    # (2, bins): impostor pairs, then genuine ones, by the upper bits of their score.
    device = blocks.embeddings.device
    counts = torch.zeros(2 * _NUM_BINS + 1, dtype=torch.int64, device=device)
    memory = torch.empty(blocks.max_entries, dtype=torch.int32, device=device)
    for block in blocks:
        _add(counts, _bins(block.scores.view(torch.int32), memory), block.kind)
    return counts[:-1].view(2, -1)


def _count_within(blocks: PairBlocks, bins: Tensor) -> tuple[Tensor, Tensor]:
    # The distinct scores within the bins, (M,), and how often an impostor and a genuine pair has each, (2, M).
    counts = torch.zeros(2 * len(bins) * _BIN_WIDTH + 1, dtype=torch.int64, device=bins.device)
    first_cell = torch.full((_NUM_BINS,), -1, dtype=torch.int32, device=bins.device)
    first_cell[bins] = torch.arange(0, len(bins) * _BIN_WIDTH, _BIN_WIDTH, dtype=torch.int32, device=bins.device)
    is_wanted = first_cell >= 0
    memory = torch.empty(blocks.max_entries, dtype=torch.int32, device=bins.device)
    for block in blocks:
        bits = block.scores.view(torch.int32)
        found = _bins(bits, memory)
        hits = is_wanted.index_select(0, found).nonzero().squeeze(1)
        cells = first_cell[found[hits]] + (bits[hits] & (_BIN_WIDTH - 1))
        _add(counts, cells, None if block.kind is None else block.kind[hits])
    by_kind = counts[:-1].view(2, -1)
    present = by_kind.sum(0).nonzero().squeeze(1)
    bits = bins[present >> _LOW_BITS] * _BIN_WIDTH + (present & (_BIN_WIDTH - 1))
    return _to_float(bits), by_kind[:, present]


def _bins(bits: Tensor, memory: Tensor) -> Tensor:
    # The shift is arithmetic: it repeats the sign, which the mask takes away.
    bins = torch.bitwise_right_shift(bits, _LOW_BITS, out=memory[: len(bits)])
    return bins.bitwise_and_(_NUM_BINS - 1)


def _add(counts: Tensor, index: Tensor, kind: Tensor | None) -> None:
    # counts: as many entries for impostor as for genuine pairs, and a last one for what is no pair.
    if kind is not None:
        index = torch.add(index, kind, alpha=len(counts) // 2).clamp_(max=len(counts) - 1)
    one = torch.ones((), dtype=counts.dtype, device=counts.device)
    counts.index_add_(0, index, one.expand(len(index)))


def _wanted_steps(curve: VerificationCurve, far: Sequence[float], thresholds: Sequence[float]) -> list[int]:
    # Steps of the coarse curve that hide an answer, and their neighbours. If nothing of the answer's own bin is
    # accepted, its threshold is the lowest score of the bin above; if all of it is, the bin below is the next step.
    points = [curve.index_at_far(rate) + 1 for rate in far]
    points += [curve.index_at_threshold(threshold) + 1 for threshold in thresholds]
    points.append(curve.index_at_crossing())
    last = len(curve.thresholds) - 1
    return sorted({step - 1 for point in points for step in (point - 1, point, point + 1) if 1 <= step <= last})


def _bin_edges(bins: Tensor) -> Tensor:
    # The lowest score of a bin: among negative ones that with all lower bits set.
    is_negative = bins >= _NUM_BINS // 2
    return _to_float(bins * _BIN_WIDTH + is_negative * (_BIN_WIDTH - 1))


def _to_float(bits: Tensor) -> Tensor:
    # int64 in [0, 2**32) -> the float32 with these bits.
    return torch.where(bits >= 1 << 31, bits - (1 << 32), bits).to(torch.int32).view(torch.float32)
