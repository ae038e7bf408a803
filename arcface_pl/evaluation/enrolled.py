"""Recognition by a few enrolled images per class: random galleries, and one-shot runs."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arcface_pl.metrics.functional import recall_at_k
from arcface_pl.seeding import derive_seed

ENROLLED = (1, 5)
"""Images per class in the galleries of `identification`."""
NUM_DRAWS = 10  # random galleries per number of enrolled images


def identification(
    embeddings: Tensor, labels: Tensor, *, enrolled: Iterable[int] = ENROLLED, seed: int = 0
) -> dict[str, float]:
    """Classify images by the nearest of a few enrolled ones; means over `NUM_DRAWS` random galleries.

    Args:
        embeddings: (N, D).
        labels: (N,) int64.
        enrolled: Images per class in the gallery; all others are queries. A number that leaves a class without a query
            is skipped.
        seed: Seed of the draws.

    Returns:
        ``rank_1_of_K_enrolled``: share of queries whose nearest enrolled image is of their class.
    """
    _, sizes = labels.unique(return_counts=True)
    members = labels.argsort(stable=True).split(sizes.tolist())  # by class, in the order of the images
    scores = {}
    for count in enrolled:
        if len(members) < 2 or min(map(len, members)) <= count:
            continue
        found = []
        for draw in range(NUM_DRAWS):
            generator = torch.Generator().manual_seed(derive_seed(seed, "gallery", count, draw))
            gallery = torch.cat([each[torch.randperm(len(each), generator=generator)[:count]] for each in members])
            is_query = torch.ones(len(labels), dtype=torch.bool)
            is_query[gallery] = False
            chosen = {"gallery_embeddings": embeddings[gallery], "gallery_labels": labels[gallery]}
            found.append(recall_at_k(embeddings[is_query], labels[is_query], 1, **chosen))
        scores[f"rank_1_of_{count}_enrolled"] = sum(found) / len(found)
    return scores


def one_shot(embeddings: Tensor, runs: Sequence[Any]) -> dict[str, float]:
    """Classify the queries of each run by the enrolled image with the largest cosine.

    Args:
        embeddings: (N, D).
        runs: Each has ``enrolled``, (K,), and ``queries``, (Q,), int64 indices of embeddings, and ``targets``, (Q,)
            int64, the position in ``enrolled`` of the image of each query's class.

    Returns:
        ``one_shot_accuracy``, the mean over the runs; with two or more runs ``one_shot_standard_error``, its standard
        error; and ``num_runs``.
    """
    unit = F.normalize(embeddings.double(), dim=1)
    nearest = [(unit[run.queries] @ unit[run.enrolled].T).argmax(1) for run in runs]
    rates = torch.stack([(found == run.targets).double().mean() for found, run in zip(nearest, runs, strict=True)])
    scores = {"one_shot_accuracy": float(rates.mean()), "num_runs": len(runs)}
    if len(runs) > 1:
        scores["one_shot_standard_error"] = float(rates.std() / len(runs) ** 0.5)
    return scores
