"""Verification over all pairs of a set of embeddings, without holding all scores at once.

The bits of a float32, read as an integer, sort like its value (in reverse if negative). A first pass over the blocks of
`PairBlocks` counts scores by their upper 20 bits: exact points of the ROC at the edges of these bins, and the bins that
contain the wanted thresholds. A second pass over the same blocks looks at every score within those bins, so that
nothing is interpolated: it collects the scores if they are few, otherwise it counts them by their lower 12 bits.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from arcface_pl.metrics.functional.curve import VerificationCurve
from arcface_pl.metrics.functional.pair_blocks import BLOCK_SIZE, GENUINE, IMPOSTOR, NO_PAIR, PairBlocks
from arcface_pl.metrics.functional.validation import check

_LOW_BITS = 12  # 2**20 bins of 8 bytes per kind of pair are fast to add to, 2**22 are not
_NUM_BINS = 1 << (32 - _LOW_BITS)
_BIN_WIDTH = 1 << _LOW_BITS
_FEW = 1 << 20  # scores that are collected at most: sorting them takes about 50 MB


@torch.no_grad()
def all_pairs_curve(
    embeddings: Tensor,
    labels: Tensor,
    *,
    far: Sequence[float] = (1e-1, 1e-2, 1e-3),
    thresholds: Sequence[float] = (),
    block_size: int = BLOCK_SIZE,
) -> VerificationCurve:
    """Verify every embedding against every other: the exact curve of all N (N - 1) / 2 cosines.

    Uses less than 100 MB besides the normalized embeddings, for any N, and two passes of N**2 D / 2 multiplications.
    Every point of the curve is an exact count. Up to 2**20 pairs (N = 1,448) the curve has all points and equals
    `verification_curve` on the scores of `pair_scores`. Beyond, it gives the same equal error rate, the same
    `tar_at_far` at the rates in ``far`` and the same `rates_at_threshold` at ``thresholds``, and raises for others.
    `auc` is then exact if at most 2**20 pairs lie where genuine and impostor scores share their upper 20 bits (a
    relative width of 2**-11); otherwise these pairs count as ties, and `auc_error` bounds the effect.

    Args:
        embeddings: (N, D), any real dtype, N >= 2; normalized here. A row of zeros scores 0 with all others.
        labels: (N,), any integer dtype. A class with a single member has impostor pairs only.
        far: False accept rates in [0, 1] at which the curve answers `tar_at_far`.
        thresholds: Cosines at which the curve answers `rates_at_threshold`.
        block_size: Rows per block of the computation.

    Returns:
        The curve. Its thresholds are observed scores near the requested answers and may be edges of bins elsewhere.

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
        check(False, "labels", "one class only" if num_genuine else "no class twice", "genuine and impostor pairs")
    bins = counts.sum(0).nonzero().squeeze(1)
    edges = _bin_edges(bins)
    edges, order = edges.sort(descending=True)
    bins = bins[order]
    coarse = VerificationCurve.from_counts(
        edges, counts[1, bins], counts[0, bins], torch.ones_like(bins, dtype=torch.bool)
    )
    values, fine, looked_into = _look_into(blocks, counts, bins, _wanted_steps(coarse, far, thresholds))
    kept = ~looked_into
    return VerificationCurve.from_counts(
        torch.cat((edges[kept], values)),
        torch.cat((counts[1, bins[kept]], fine[1])),
        torch.cat((counts[0, bins[kept]], fine[0])),
        torch.cat((kept[kept], torch.zeros_like(values, dtype=torch.bool))),
    )


def _count_bins(blocks: PairBlocks) -> Tensor:
    # (2, bins): impostor, then genuine pairs by the upper bits of their score
    device = blocks.embeddings.device
    counts = torch.zeros(2 * _NUM_BINS + 1, dtype=torch.int64, device=device)
    memory = torch.empty(blocks.max_entries, dtype=torch.int32, device=device)
    for block in blocks:
        _add(counts, _bins(block.scores.view(torch.int32), memory), block.kind)
    return counts[:-1].view(2, -1)


def _look_into(blocks: PairBlocks, counts: Tensor, bins: Tensor, steps: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    # Scores within the wanted bins, (M,), their numbers of impostor and genuine pairs, (2, M), and a mask of the bins.
    # If there are few scores, all bins are taken, or else those with pairs of both kinds, which determine the AUC.
    wanted = torch.zeros_like(bins, dtype=torch.bool)
    wanted[steps] = True
    chosen, look = wanted, _count_within
    for more in (torch.ones_like(wanted), wanted | (counts[:, bins] > 0).all(0)):
        if int(counts[:, bins[more]].sum()) <= _FEW:
            chosen, look = more, _collect_within
            break
    values, fine = look(blocks, bins[chosen])
    same = fine.sum(1).equal(counts[:, bins[chosen]].sum(1))
    assert same, "two passes over the same blocks gave different scores"
    return values, fine, chosen


def _collect_within(blocks: PairBlocks, bins: Tensor) -> tuple[Tensor, Tensor]:
    found: list[Tensor] = []
    kinds: list[Tensor] = []
    for bits, _, kind in _scores_within(blocks, bins):
        found.append(bits if kind is None else bits[kind != NO_PAIR])
        kinds.append(torch.full_like(bits, IMPOSTOR) if kind is None else kind[kind != NO_PAIR])
    kind = torch.cat(kinds)
    return torch.cat(found).view(torch.float32), torch.stack((kind == IMPOSTOR, kind == GENUINE)).long()


def _count_within(blocks: PairBlocks, bins: Tensor) -> tuple[Tensor, Tensor]:
    counts = torch.zeros(2 * len(bins) * _BIN_WIDTH + 1, dtype=torch.int64, device=bins.device)
    first_cell = torch.zeros(_NUM_BINS, dtype=torch.int32, device=bins.device)
    first_cell[bins] = torch.arange(0, len(bins) * _BIN_WIDTH, _BIN_WIDTH, dtype=torch.int32, device=bins.device)
    for bits, bin_of, kind in _scores_within(blocks, bins):
        _add(counts, first_cell[bin_of] + (bits & (_BIN_WIDTH - 1)), kind)
    by_kind = counts[:-1].view(2, -1)
    present = by_kind.sum(0).nonzero().squeeze(1)
    bits = bins[present >> _LOW_BITS] * _BIN_WIDTH + (present & (_BIN_WIDTH - 1))
    return _to_float(bits), by_kind[:, present]


def _scores_within(blocks: PairBlocks, bins: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    # Bits, bin and kind of every score in one of the bins, block by block
    is_wanted = torch.zeros(_NUM_BINS, dtype=torch.bool, device=bins.device)
    is_wanted[bins] = True
    memory = torch.empty(blocks.max_entries, dtype=torch.int32, device=bins.device)
    for block in blocks:
        bits = block.scores.view(torch.int32)
        bin_of = _bins(bits, memory)
        hits = is_wanted.index_select(0, bin_of).nonzero().squeeze(1)
        yield bits[hits], bin_of[hits], None if block.kind is None else block.kind[hits]


def _bins(bits: Tensor, memory: Tensor) -> Tensor:
    # The shift is arithmetic: it repeats the sign, which the mask removes
    bins = torch.bitwise_right_shift(bits, _LOW_BITS, out=memory[: len(bits)])
    return bins.bitwise_and_(_NUM_BINS - 1)


def _add(counts: Tensor, index: Tensor, kind: Tensor | None) -> None:
    # counts: as many entries for impostor as for genuine pairs, and a last one for entries that are not pairs
    if kind is not None:
        index = torch.add(index, kind, alpha=len(counts) // 2).clamp_(max=len(counts) - 1)
    one = torch.ones((), dtype=counts.dtype, device=counts.device)
    counts.index_add_(0, index, one.expand(len(index)))


def _wanted_steps(curve: VerificationCurve, far: Sequence[float], thresholds: Sequence[float]) -> list[int]:
    # Steps of the coarse curve that hide an answer, and their neighbors. If nothing in its bin is accepted, the
    # threshold is the lowest score of the bin above; if all of it is, the bin below is the next step
    points = [curve.index_at_far(rate) + 1 for rate in far]
    points += [curve.index_at_threshold(threshold) + 1 for threshold in thresholds]
    points.append(curve.index_at_crossing())
    last = len(curve.thresholds) - 1
    return sorted({step - 1 for point in points for step in (point - 1, point, point + 1) if 1 <= step <= last})


def _bin_edges(bins: Tensor) -> Tensor:
    # The lowest score of a bin: for negative scores the one with all lower bits set
    is_negative = bins >= _NUM_BINS // 2
    return _to_float(bins * _BIN_WIDTH + is_negative * (_BIN_WIDTH - 1))


def _to_float(bits: Tensor) -> Tensor:
    # int64 in [0, 2**32) -> the float32 with these bits
    return torch.where(bits >= 1 << 31, bits - (1 << 32), bits).to(torch.int32).view(torch.float32)
