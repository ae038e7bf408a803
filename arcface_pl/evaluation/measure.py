"""Evaluate embeddings: classification if the head knows the classes, verification and retrieval in any case.

Nothing here reads files, parses settings or prints. Every score is a plain float: a fraction, or degrees.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arcface_pl.data.protocol import labelled
from arcface_pl.evaluation.enrolled import ENROLLED, identification, one_shot
from arcface_pl.heads import Head
from arcface_pl.metrics.functional import (
    VerificationCurve,
    all_pairs_curve,
    cumulative_match_characteristic,
    fold_accuracy,
    have_both_kinds,
    knn_accuracy,
    listed_pair_scores,
    precision_at_r,
    target_angles,
    verification_curve,
)
from arcface_pl.metrics.functional.neighbours import Search
from arcface_pl.metrics.functional.retrieval import NUM_NEIGHBOURS

FAR = (1e-1, 1e-2, 1e-3, 1e-4)
"""False accept rates for which the true accept rate is reported."""
RECALL_AT = (1, 5, 10)


def with_mirror_images(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Embed each image together with its mirror image: the flip test of face recognition.

    Args:
        network: Maps images (B, C, H, W) to embeddings (B, D).

    Returns:
        The same, with the mean of both embeddings: the direction of their sum, at the length of one, which a head
        without normalization depends on.
    """
    return lambda images: (network(images) + network(images.flip(-1))) / 2


class Embedded(NamedTuple):
    """Embeddings of a set of images, on the CPU.

    Attributes:
        embeddings: (N, D) float32.
        labels: (N,) int64; -1 if the class is not known.
    """

    embeddings: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Evaluation:
    """Scores of one set of images.

    Attributes:
        class_names: Names of the classes, in label order.
        embedded: Embeddings and labels of the images.
        scores: By kind (classification, verification, pairs, retrieval, identification, one_shot), then by name.
        curve: Verification over all pairs, if there are genuine and impostor ones.
        not_measured: What the images or the list of pairs do not allow, and why, one sentence each.
    """

    class_names: list[str]
    embedded: Embedded
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    curve: VerificationCurve | None = None
    not_measured: list[str] = field(default_factory=list)

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.embedded.labels)


@torch.no_grad()
def embed(
    network: Callable[[Tensor], Tensor],
    batches: Iterable[Any],
    device: torch.device | str = "cpu",
    *,
    flip: bool = False,
) -> Embedded:
    """Embed all images of a loader.

    Args:
        network: Maps images (B, C, H, W) to embeddings (B, D), in evaluation mode, on ``device``.
        batches: Images and labels, in any form of `arcface_pl.data.protocol.images_and_labels`.
        device: Device of the network.
        flip: Embed each image together with its mirror image; see `with_mirror_images`.

    Returns:
        Embeddings and labels in the order of the batches.
    """
    network = with_mirror_images(network) if flip else network
    embeddings, labels = [], []
    for images, numbers in map(labelled, batches):
        embeddings.append(network(images.to(device)).float().cpu())
        labels.append(numbers.long().cpu())
    return Embedded(torch.cat(embeddings), torch.cat(labels))


def evaluate(
    embedded: Embedded,
    class_names: list[str],
    *,
    head: Head | None = None,
    pairs: Any = None,
    is_query: Tensor | None = None,
    runs: Sequence[Any] | None = None,
) -> Evaluation:
    """Measure everything that a set of images allows, and name what it does not allow.

    Args:
        embedded: Embeddings and labels of the images.
        class_names: Names of their classes, in label order.
        head: The trained head, in evaluation mode on the CPU, if it was trained on these classes.
        pairs: A list of pairs of these images: ``first`` and ``second``, (P,) int64 indices, ``is_genuine``, (P,) bool,
            and ``folds``, (P,) int64; None for no list.
        is_query: Whether each image is looked up among the others, (N,) bool; None to look up each among all others.
        runs: Runs of one-shot classification, see `one_shot`; None if the images have none.

    Raises:
        ValueError: If an embedding is NaN or infinite, or an index is outside the images.
    """
    embeddings, labels = embedded
    scores: dict[str, dict[str, float]] = {}
    curve, not_measured = None, []
    if head is not None:
        scores["classification"] = classification(head, embeddings, labels)
    _, sizes = labels.unique(return_counts=True)
    are_known = bool((labels >= 0).all())
    if are_known and len(sizes) > 1 and int(sizes.max()) > 1:
        curve = all_pairs_curve(embeddings, labels, far=FAR)
        scores["verification"] = verification(curve)
        if is_query is None or torch.isin(labels[is_query], labels[~is_query]).any():
            scores["retrieval"] = retrieval(embeddings, labels, is_query)
        else:
            not_measured.append("retrieval: no query has a gallery image of its class")
        scores["identification"] = identification(embeddings, labels)
    else:
        reason = "all images are of one class" if len(sizes) < 2 else "no class has two images"
        reason = reason if are_known else "the classes of the images are not known"
        not_measured.append(f"verification, retrieval and identification: {reason}")
    if pairs is not None:
        scores["pairs"] = pair_verification(embeddings, labels, pairs)
        if "eer" not in scores["pairs"]:
            kind = "impostor" if scores["pairs"]["num_genuine"] else "genuine"
            not_measured.append(f"error rates of the listed pairs: the list has no {kind} pairs")
        elif "fold_accuracy" not in scores["pairs"]:
            not_measured.append("accuracy by folds: not every one of two or more folds has pairs of both kinds")
    if runs:
        scores["one_shot"] = one_shot(embeddings, runs)
    elif runs is not None:
        not_measured.append("one-shot classification: its runs are missing")
    if curve is not None:
        not_measured += _too_few(scores)
    found = {kind: each for kind, each in scores.items() if each}
    return Evaluation(class_names, embedded, found, curve, not_measured)


def _too_few(scores: dict[str, dict[str, float]]) -> Iterator[str]:
    """Name the scores whose number of neighbors, enrolled images or pairs exceeds what the classes have."""
    rates = [f"{100 * far:g}%" for far in FAR if f"tar_at_far_{far:g}" not in scores["verification"]]
    if rates:
        yield f"TAR at FAR {', '.join(rates)}: {scores['verification']['num_impostor']:,} impostor pairs are too few"
    if "retrieval" in scores and (
        ranks := [f"recall@{rank}" for rank in RECALL_AT if f"recall_at_{rank}" not in scores["retrieval"]]
    ):
        yield f"{', '.join(ranks)}: with so few images of other classes there is always one of the class among them"
    if numbers := [count for count in ENROLLED if f"rank_1_of_{count}_enrolled" not in scores["identification"]]:
        yield f"identification with {' or '.join(map(str, numbers))} enrolled: a class has no more images than that"


@torch.no_grad()
def classification(head: Head, embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """Measure accuracy and mean angles to the class centers in degrees; predictions do not see the label.

    Args:
        head: In evaluation mode.
        embeddings: (N, D).
        labels: (N,) int64 in [0, C).

    Returns:
        ``accuracy``; with two or more classes also ``target_mean``, ``nearest_other_mean`` and ``gap_mean``.
    """
    scores = {"accuracy": float((head.predict(embeddings)[0] == labels).double().mean())}
    if head.num_classes > 1:
        angles = target_angles(embeddings, labels, head.weight, sub_centers=head.sub_centers)
        scores |= {
            f"{name}_mean": float(torch.rad2deg(getattr(angles, name)).mean())
            for name in ("target", "nearest_other", "gap")
        }
    return scores


def verification(curve: VerificationCurve) -> dict[str, float]:
    """Compute the error rates of a verification.

    Args:
        curve: Resolved at the rates in `FAR`.

    Returns:
        ``eer``, ``eer_threshold``, ``auc``, ``num_genuine``, ``num_impostor`` and ``tar_at_far_RATE`` for each rate in
        `FAR` that amounts to at least one impostor pair.
    """
    rate, threshold = curve.equal_error_rate()
    scores = {"eer": rate, "eer_threshold": threshold, "auc": curve.auc()}
    scores |= {f"tar_at_far_{far:g}": curve.tar_at_far(far)[0] for far in FAR if far * curve.num_impostor >= 1}
    return scores | {"num_genuine": curve.num_genuine, "num_impostor": curve.num_impostor}


@torch.no_grad()
def pair_verification(embeddings: Tensor, labels: Tensor, pairs: Any) -> dict[str, float]:
    """Compute error rates and cross-validated accuracy of a list of pairs.

    Args:
        embeddings: (N, D).
        labels: (N,) int64.
        pairs: As for `evaluate`.

    Returns:
        The scores of `verification`, and ``fold_accuracy`` and ``fold_accuracy_standard_error`` if each of two or more
        folds has genuine and impostor pairs. Without pairs of both kinds ``num_genuine`` and ``num_impostor`` only.
    """
    num_genuine = int(pairs.is_genuine.sum())
    num_impostor = len(pairs.is_genuine) - num_genuine
    if not num_genuine or not num_impostor:
        return {"num_genuine": num_genuine, "num_impostor": num_impostor}
    cosine = listed_pair_scores(embeddings, labels, pairs.first, pairs.second)
    scores = verification(verification_curve(cosine[pairs.is_genuine], cosine[~pairs.is_genuine]))
    if have_both_kinds(pairs.is_genuine, pairs.folds):
        found = fold_accuracy(cosine, pairs.is_genuine, pairs.folds)
        scores |= {"fold_accuracy": found.mean, "fold_accuracy_standard_error": found.standard_error}
    return scores


def retrieval(embeddings: Tensor, labels: Tensor, is_query: Tensor | None = None) -> dict[str, float]:
    """Look up each embedding among all others, or queries in a gallery.

    Args:
        embeddings: (N, D).
        labels: (N,) int64; at least one class has two images.
        is_query: (N,) bool, queries; the others are the gallery. Queries without an image of their class are left out.

    Returns:
        ``recall_at_K`` for each K in `RECALL_AT` that no query's images of other classes fall short of, since it could
        not fail there; ``r_precision``, ``map_at_r``, ``knn_accuracy`` and ``knn_neighbours``, the number that vote.
    """
    gallery: dict[str, Any] = {}
    if is_query is not None:
        gallery = {"gallery_embeddings": embeddings[~is_query], "gallery_labels": labels[~is_query]}
        embeddings, labels = embeddings[is_query], labels[is_query]
    search = Search(embeddings, labels, **gallery)
    scores: dict[str, float] = {}
    if ranks := [rank for rank in RECALL_AT if rank <= search.num_candidates - int(search.num_relevant.max())]:
        matched = cumulative_match_characteristic(embeddings, labels, ranks[-1], **gallery)
        scores = {f"recall_at_{rank}": float(matched[rank - 1]) for rank in ranks}
    scores["r_precision"], scores["map_at_r"] = precision_at_r(embeddings, labels, **gallery)
    neighbours, answerable = search.default_k(NUM_NEIGHBOURS), (search.num_relevant > 0).double().mean()
    # Queries without an image of their class, which it counts as wrong, are left out here too
    scores["knn_accuracy"] = knn_accuracy(embeddings, labels, neighbours, **gallery) / float(answerable)
    return scores | {"knn_neighbours": neighbours}
