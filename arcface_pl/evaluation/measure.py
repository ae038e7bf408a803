"""Evaluating embeddings: classification where the head knows the classes, verification and retrieval in any case.

Nothing here reads files, parses settings or prints. Every number is a plain float, a fraction or degrees.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arcface_pl.heads import Head
from arcface_pl.metrics.functional import (
    VerificationCurve,
    all_pairs_curve,
    cumulative_match_characteristic,
    fold_accuracy,
    knn_accuracy,
    listed_pair_scores,
    precision_at_r,
    recall_at_k,
    target_angles,
    verification_curve,
)
from arcface_pl.seeding import derive_seed

__all__ = [
    "FAR",
    "Embedded",
    "Evaluation",
    "classification",
    "embed",
    "evaluate",
    "identification",
    "pair_verification",
    "retrieval",
    "verification",
]

FAR = (1e-1, 1e-2, 1e-3, 1e-4)
"""False accept rates at which the true accept rate is reported."""
RECALL_AT = (1, 5, 10)
NUM_NEIGHBOURS = 5
NUM_DRAWS = 10  # galleries drawn for each number of enrolled images


class Embedded(NamedTuple):
    """Images as the network sees them.

    Attributes:
        embeddings: (N, D), on the CPU.
        labels: (N,) int64, on the CPU.
    """

    embeddings: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Evaluation:
    """What was measured on one set of images.

    Attributes:
        class_names: Names of its classes, in label order.
        embedded: The images.
        scores: By kind (classification, verification, pairs, retrieval, identification), then by name; a kind that the
            images do not allow is left out.
        curve: Verification of all pairs, where there are some of both kinds.
    """

    class_names: list[str]
    embedded: Embedded
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    curve: VerificationCurve | None = None

    @property
    def num_images(self) -> int:
        """Images that were evaluated."""
        return len(self.embedded.labels)


@torch.no_grad()
def embed(
    network: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device | str = "cpu",
) -> Embedded:
    """Run a network over batches.

    Args:
        network: Images (B, C, H, W) to embeddings (B, D), in evaluation mode and on ``device``.
        batches: Images and their labels.
        device: Where the network is.

    Returns:
        All embeddings and labels, in the order of the batches.
    """
    embeddings, labels = [], []
    for images, numbers in batches:
        embeddings.append(network(images.to(device)).float().cpu())
        labels.append(numbers.cpu())
    return Embedded(torch.cat(embeddings), torch.cat(labels))


def evaluate(embedded: Embedded, class_names: list[str], *, head: Head | None = None, pairs: Any = None) -> Evaluation:
    """Measure everything that a set of images allows.

    Args:
        embedded: The images.
        class_names: Names of their classes, in label order.
        head: The trained head, on the CPU, if these are the classes it was trained on.
        pairs: A list of pairs of these images, or None: ``first`` and ``second``, (P,) int64 indices, ``is_genuine``,
            (P,) bool, and ``folds``, (P,) int64.

    Returns:
        The scores.

    Raises:
        ValueError: If an embedding is not finite, as those of a network that diverged.
    """
    embeddings, labels = embedded
    scores: dict[str, dict[str, float]] = {}
    curve = None
    if head is not None:
        scores["classification"] = classification(head, embeddings, labels)
    counts = torch.bincount(labels)
    if int((counts > 0).sum()) > 1 and int(counts.max()) > 1:
        curve = all_pairs_curve(embeddings, labels, far=FAR)
        scores["verification"] = verification(curve)
        scores["retrieval"] = retrieval(embeddings, labels)
        scores["identification"] = identification(embeddings, labels)
    if pairs is not None:
        scores["pairs"] = pair_verification(embeddings, labels, pairs)
    return Evaluation(class_names, embedded, {kind: found for kind, found in scores.items() if found}, curve)


@torch.no_grad()
def classification(head: Head, embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy without looking at the label, and mean angles to the class centers in degrees.

    Args:
        head: In evaluation mode.
        embeddings: (N, D).
        labels: (N,) int64 in [0, C).

    Returns:
        ``accuracy``; with two classes or more ``target_mean``, ``nearest_other_mean`` and ``gap_mean``.
    """
    scores = {"accuracy": float((head(embeddings).argmax(1) == labels).double().mean())}
    if head.num_classes > 1:
        angles = target_angles(embeddings, labels, head.weight, sub_centers=head.sub_centers)
        scores |= {
            f"{name}_mean": float(torch.rad2deg(getattr(angles, name)).mean())
            for name in ("target", "nearest_other", "gap")
        }
    return scores


def verification(curve: VerificationCurve) -> dict[str, float]:
    """Error rates of a verification.

    Args:
        curve: Made for the rates of `FAR`.

    Returns:
        ``eer``, ``eer_threshold``, ``auc``, ``num_genuine``, ``num_impostor`` and, for each rate of `FAR` that is at
        least one impostor pair, ``tar_at_far_RATE``.
    """
    rate, threshold = curve.equal_error_rate()
    scores = {"eer": rate, "eer_threshold": threshold, "auc": curve.auc()}
    scores |= {f"tar_at_far_{far:g}": curve.tar_at_far(far)[0] for far in FAR if far * curve.num_impostor >= 1}
    return scores | {"num_genuine": curve.num_genuine, "num_impostor": curve.num_impostor}


@torch.no_grad()
def pair_verification(embeddings: Tensor, labels: Tensor, pairs: Any) -> dict[str, float]:
    """Error rates and cross-validated accuracy of a list of pairs.

    Args:
        embeddings: (N, D).
        labels: (N,) int64.
        pairs: As `evaluate` takes them.

    Returns:
        What `verification` returns and, with two folds or more, ``fold_accuracy`` and
        ``fold_accuracy_standard_error``.
    """
    cosine = listed_pair_scores(embeddings, labels, pairs.first, pairs.second)
    scores = verification(verification_curve(cosine[pairs.is_genuine], cosine[~pairs.is_genuine]))
    if len(pairs.folds.unique()) > 1:
        found = fold_accuracy(cosine, pairs.is_genuine, pairs.folds)
        scores |= {"fold_accuracy": found.mean, "fold_accuracy_standard_error": found.standard_error}
    return scores


def retrieval(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """Look each embedding up among the others.

    Args:
        embeddings: (N, D).
        labels: (N,) int64; at least one class has two.

    Returns:
        ``recall_at_K``, ``r_precision``, ``map_at_r`` and ``knn_accuracy``.
    """
    most = len(labels) - 1
    ranks = [rank for rank in RECALL_AT if rank <= most]
    matched = cumulative_match_characteristic(embeddings, labels, ranks[-1])
    scores = {f"recall_at_{rank}": float(matched[rank - 1]) for rank in ranks}
    scores["r_precision"], scores["map_at_r"] = precision_at_r(embeddings, labels)
    return scores | {"knn_accuracy": knn_accuracy(embeddings, labels, min(NUM_NEIGHBOURS, most))}


def identification(
    embeddings: Tensor, labels: Tensor, *, enrolled: Iterable[int] = (1, 5), seed: int = 0
) -> dict[str, float]:
    """Name each image by the nearest of a few enrolled ones; means over `NUM_DRAWS` galleries drawn from the images.

    Args:
        embeddings: (N, D).
        labels: (N,) int64.
        enrolled: Images of each class in the gallery. The others are the queries; a class that has no others makes
            that number impossible, and its score is left out.
        seed: Decides the draws.

    Returns:
        ``rank_1_of_K_enrolled``: share of the queries whose nearest enrolled image is of their class.
    """
    members = [(labels == label).nonzero().flatten() for label in labels.unique()]
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
