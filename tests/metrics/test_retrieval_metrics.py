"""Retrieval, against numpy by brute force, scikit-learn and pytorch-metric-learning."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from largest_tensor import LargestTensor
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn.neighbors import KNeighborsClassifier

from arcface_pl.metrics.functional import (
    cumulative_match_characteristic,
    knn_accuracy,
    mean_average_precision_at_r,
    precision_at_k,
    r_precision,
    recall_at_k,
)


def clusters(num, num_classes, dim=8, seed=0, spread=1.5):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num,), generator=generator)
    centers = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(99))
    return centers[labels] + spread * torch.randn(num, dim, generator=generator), labels


def exact_ties(num, seed):
    """Rows whose length and cosines are exact in any precision: four entries of +-1, or one."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (num, 4), generator=generator) * 2 - 1
    alone = torch.eye(4)[torch.randint(4, (num,), generator=generator)] * signs
    return torch.where(torch.rand(num, 1, generator=generator) < 0.5, signs, alone)


def brute_force(embeddings, labels, gallery=None, gallery_labels=None):
    """Relevance of the whole ranking of each query, lists of different classes first among equals, and R."""
    queries = F.normalize(embeddings.double(), dim=1).numpy()
    others = queries if gallery is None else F.normalize(gallery.double(), dim=1).numpy()
    other_labels = (labels if gallery is None else gallery_labels).numpy()
    ranked = []
    for i, query in enumerate(queries):
        keep = np.arange(len(others)) != i if gallery is None else np.ones(len(others), dtype=bool)
        cosine = others[keep] @ query
        same = other_labels[keep] == labels[i].item()
        ranked.append(same[np.lexsort((same, -cosine))])
    return [same for same in ranked if same.any()]


def expected_metrics(ranked, ks):
    r = [same.sum() for same in ranked]
    hits = [same[:size] for same, size in zip(ranked, r, strict=True)]
    precision = [np.cumsum(h) / np.arange(1, len(h) + 1) for h in hits]
    return {
        "recall": [np.mean([same[:k].any() for same in ranked]) for k in ks],
        "precision": [np.mean([same[:k].mean() for same in ranked]) for k in ks],
        "r_precision": np.mean([h.mean() for h in hits]),
        "map": np.mean([(p * h).sum() / len(h) for p, h in zip(precision, hits, strict=True)]),
    }


def our_metrics(embeddings, labels, ks, **gallery):
    return {
        "recall": [recall_at_k(embeddings, labels, k, **gallery) for k in ks],
        "precision": [precision_at_k(embeddings, labels, k, **gallery) for k in ks],
        "r_precision": r_precision(embeddings, labels, **gallery),
        "map": mean_average_precision_at_r(embeddings, labels, **gallery),
    }


def assert_equal(ours, expected):
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize(
    ("embeddings", "labels"),
    [
        clusters(300, 10),
        clusters(200, 100, seed=1),  # some classes have one member
        clusters(150, 2, dim=4, seed=2),
        (exact_ties(150, seed=3), clusters(150, 5, seed=3)[1]),
        (torch.ones(30, 4), torch.arange(30) % 4),  # nothing but ties
        (torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([3, 3, -1])),
        (torch.eye(6), torch.arange(6) // 2),
    ],
    ids=["random", "lone classes", "two classes", "tied", "constant", "tiny", "orthogonal"],
)
def test_equals_brute_force(embeddings, labels):
    ks = [k for k in (1, 2, 5, 10, 29) if k < len(labels)]
    assert_equal(our_metrics(embeddings, labels, ks), expected_metrics(brute_force(embeddings, labels), ks))


def test_equals_brute_force_with_a_gallery():
    embeddings, labels = clusters(120, 12, seed=4)
    gallery, gallery_labels = clusters(90, 9, seed=5)
    ks = [1, 3, 90]
    expected = expected_metrics(brute_force(embeddings, labels, gallery, gallery_labels), ks)
    assert_equal(
        our_metrics(embeddings, labels, ks, gallery_embeddings=gallery, gallery_labels=gallery_labels), expected
    )


@pytest.mark.parametrize("own_gallery", [True, False])
@pytest.mark.parametrize("num_classes", [8, 60])
def test_equals_pytorch_metric_learning(own_gallery, num_classes):
    embeddings, labels = clusters(240, num_classes, seed=6)
    gallery, gallery_labels = clusters(200, num_classes, seed=7)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity()),
        device=torch.device("cpu"),
    )
    if own_gallery:
        expected, chosen = calculator.get_accuracy(embeddings, labels), {}
    else:
        expected = calculator.get_accuracy(embeddings, labels, gallery, gallery_labels)
        chosen = {"gallery_embeddings": gallery, "gallery_labels": gallery_labels}
    assert recall_at_k(embeddings, labels, 1, **chosen) == pytest.approx(expected["precision_at_1"], abs=1e-6)
    assert precision_at_k(embeddings, labels, 1, **chosen) == pytest.approx(expected["precision_at_1"], abs=1e-6)
    assert r_precision(embeddings, labels, **chosen) == pytest.approx(expected["r_precision"], abs=1e-6)
    expected_map = expected["mean_average_precision_at_r"]
    assert mean_average_precision_at_r(embeddings, labels, **chosen) == pytest.approx(expected_map, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_knn_accuracy_is_that_of_scikit_learn(k):
    embeddings, labels = clusters(200, 10, seed=8)
    gallery, gallery_labels = clusters(150, 10, seed=9)
    classifier = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(
        gallery.numpy(), gallery_labels.numpy()
    )
    expected = classifier.score(embeddings.numpy(), labels.numpy())
    got = knn_accuracy(embeddings, labels, k, gallery_embeddings=gallery, gallery_labels=gallery_labels)
    assert got == pytest.approx(expected, abs=1e-12)


def test_knn_accuracy_leaves_the_query_out_and_counts_the_lone():
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]])
    assert knn_accuracy(embeddings, torch.tensor([0, 0, 1]), k=1) == pytest.approx(2 / 3)
    labels = torch.tensor([1, 0, 0])
    assert knn_accuracy(embeddings, labels, k=2) == pytest.approx(2 / 3)  # draws go to 0, never to the lone 1


def test_the_cmc_is_recall_at_every_rank():
    embeddings, labels = clusters(150, 15, seed=10)
    curve = cumulative_match_characteristic(embeddings, labels, max_rank=149)
    assert curve.shape == (149,)
    assert [recall_at_k(embeddings, labels, k) for k in (1, 7, 149)] == [curve[0], curve[6], curve[148]]
    assert recall_at_k(embeddings, labels) == curve[0] < curve[1]
    assert (curve.diff() >= 0).all()
    assert curve[-1] == 1


@pytest.mark.parametrize("count", [2, 5, 8, 11, 12])
def test_without_a_number_few_items_give_what_they_can(count):
    embeddings, _ = clusters(12, 3, seed=10)
    embeddings, labels = embeddings[:count], torch.arange(count) // 2
    curve = cumulative_match_characteristic(embeddings, labels)
    assert torch.equal(curve, cumulative_match_characteristic(embeddings, labels, max_rank=min(10, count - 1)))
    assert knn_accuracy(embeddings, labels) == knn_accuracy(embeddings, labels, k=1)  # pairs: five would outvote them
    gallery = {"gallery_embeddings": embeddings, "gallery_labels": labels}
    assert len(cumulative_match_characteristic(embeddings, labels, **gallery)) == min(10, count)


@pytest.mark.parametrize("score", [recall_at_k, cumulative_match_characteristic, knn_accuracy])
def test_one_item_is_refused_in_terms_of_what_was_given(score):
    with pytest.raises(ValueError, match=r"^embeddings: got one; expected at least two"):
        score(torch.ones(1, 4), torch.zeros(1, dtype=torch.int64))


def test_the_query_is_left_out_by_position_and_not_by_its_cosine():
    # The twin of a query is as near as the query itself: looked up by cosine one of them would hide the other.
    embeddings, labels = torch.eye(3).repeat(2, 1), torch.tensor([0, 1, 2, 0, 1, 2])
    assert recall_at_k(embeddings, labels, 1) == 1
    assert recall_at_k(embeddings, torch.arange(6) % 2, 1) == 0
    # A gallery is searched whole: there the query finds itself.
    distinct = clusters(20, 3)[0]
    assert recall_at_k(distinct, torch.arange(20), 1, gallery_embeddings=distinct, gallery_labels=torch.arange(20)) == 1


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 1), st.integers(0, 2)), min_size=3, max_size=9))
@settings(max_examples=60, deadline=None)
def test_tiny_tied_inputs(rows):
    axis, sign, labels = torch.tensor(rows).T
    embeddings = torch.eye(3)[axis] * sign[:, None]
    if labels.bincount().max() < 2:
        with pytest.raises(ValueError, match="expected a class that repeats"):
            recall_at_k(embeddings, labels)
        return
    expected = expected_metrics(brute_force(embeddings, labels), [1, 2])
    assert_equal(our_metrics(embeddings, labels, [1, 2]), expected)
    turned = torch.arange(len(rows) - 1, -1, -1)
    assert_equal(our_metrics(embeddings[turned], labels[turned], [1, 2]), expected)


def test_chunks_do_not_change_the_answer(monkeypatch):
    embeddings, labels = clusters(200, 12, seed=11)
    whole = our_metrics(embeddings, labels, [1, 4]), knn_accuracy(embeddings, labels)
    monkeypatch.setattr("arcface_pl.metrics.functional.neighbours._MAX_BLOCK", 1)
    monkeypatch.setattr("arcface_pl.metrics.functional.neighbours._MIN_ROWS", 7)
    assert_equal(our_metrics(embeddings, labels, [1, 4]), whole[0])
    assert knn_accuracy(embeddings, labels) == whole[1]


@pytest.mark.parametrize("tied", [False, True])
def test_never_a_matrix_of_all_pairs(monkeypatch, tied):
    monkeypatch.setattr("arcface_pl.metrics.functional.neighbours._MAX_BLOCK", 1)
    embeddings, labels = clusters(500, 100, seed=12)
    with LargestTensor() as largest:
        our_metrics(exact_ties(500, seed=12) if tied else embeddings, labels, [1])
    assert largest.num_elements <= 32 * 500


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int16])
def test_other_dtypes(dtype):
    embeddings, labels = clusters(100, 5, seed=13)
    embeddings = (embeddings * 8).to(dtype)
    expected = expected_metrics(brute_force(embeddings, labels), [1, 5])
    assert_equal(our_metrics(embeddings, labels.to(torch.uint8), [1, 5]), expected)


GOOD, LABELS = torch.eye(4), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k: got 0; expected a whole number from 1 to 3, the number of other queries"),
        ({"k": 4}, "k: got 4; expected a whole number from 1 to 3, the number of other queries"),
        (
            {"k": 5, "gallery_embeddings": GOOD, "gallery_labels": LABELS},
            "k: got 5; expected a whole number from 1 to 4, the size of the gallery",
        ),
        ({"labels": torch.arange(4)}, "labels: got none; expected a class that repeats"),
        (
            {"gallery_embeddings": GOOD, "gallery_labels": LABELS + 7},
            "labels: got none; expected a class that is in gallery_labels",
        ),
        ({"gallery_embeddings": GOOD}, "gallery_embeddings, gallery_labels: got one of them; expected both or neither"),
        ({"gallery_labels": LABELS}, "gallery_embeddings, gallery_labels: got one of them; expected both or neither"),
        (
            {"gallery_embeddings": torch.ones(4, 3), "gallery_labels": LABELS},
            r"gallery_embeddings: got \(4, 3\); expected shape \(N, 4\)",
        ),
        (
            {"gallery_embeddings": GOOD, "gallery_labels": LABELS[:3]},
            r"gallery_labels: got \(3,\); expected an integer tensor of shape \(4,\)",
        ),
        ({"gallery_embeddings": GOOD / 0, "gallery_labels": LABELS}, "gallery_embeddings: got 16 NaN or infinite"),
        ({"embeddings": GOOD[0]}, r"embeddings: got \(4,\); expected shape \(N, D\)"),
        ({"embeddings": GOOD[:0], "labels": LABELS[:0]}, r"embeddings: got \(0, 4\)"),
        ({"embeddings": GOOD * torch.nan}, "embeddings: got 16 NaN or infinite"),
        ({"labels": LABELS[:, None]}, r"labels: got \(4, 1\)"),
        ({"labels": LABELS.float()}, "labels: got torch.float32"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(**{"embeddings": GOOD, "labels": LABELS, **arguments})
