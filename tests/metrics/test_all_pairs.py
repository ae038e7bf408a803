"""Verification over all pairs in blocks, against the materialised scores of the same blocks and scikit-learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from largest_tensor import LargestTensor
from sklearn.metrics import roc_auc_score, roc_curve

from arcface_pl.metrics.functional import (
    all_pairs_curve,
    equal_error_rate,
    listed_pair_scores,
    pair_scores,
    verification_curve,
)

FARS = (0.0, 1e-4, 1e-3, 0.01, 0.29, 0.5, 1.0)


def clusters(num, num_classes, dim, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num,), generator=generator)
    centers = torch.randn(num_classes, dim, generator=generator)
    return centers[labels] + spread * torch.randn(num, dim, generator=generator), labels


def one_hot(num, dim):
    return torch.eye(dim)[torch.arange(num) % dim], torch.arange(num) % dim % 5


CASES = {
    "few classes": (*clusters(300, 10, 16), 64),
    "many classes": (*clusters(250, 90, 32, spread=2.0, seed=1), 48),
    "faces": (*clusters(200, 150, 512, spread=0.5, seed=2), 1024),
    "two dimensions": (*clusters(150, 4, 2, seed=3), 32),
    "noise": (torch.randn(200, 8, generator=torch.Generator().manual_seed(4)), torch.arange(200) % 7, 50),
    "one hot": (*one_hot(150, 12), 64),
    "separated": (*clusters(150, 5, 64, spread=0.05, seed=5), 64),
    "wrong way round": (-clusters(40, 2, 4, seed=6)[0], torch.arange(40) // 20, 16),
    "rounded": (clusters(150, 6, 3, seed=7)[0].round(), clusters(150, 6, 3, seed=7)[1], 64),
    "all the same": (torch.ones(50, 7), torch.arange(50) % 3, 16),
    "opposite": (torch.tensor([[1.0], [-1.0]]).repeat(20, 1), torch.arange(40) % 2, 16),
    "rows of zeros": (clusters(100, 4, 5)[0] * (torch.arange(100) % 3 > 0)[:, None], torch.arange(100) % 4, 32),
    "three": (torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), torch.tensor([5, 5, -2]), 1024),
}
all_cases = pytest.mark.parametrize(("embeddings", "labels", "block_size"), CASES.values(), ids=CASES.keys())


def sklearn_roc(genuine, impostor):
    is_genuine = np.r_[np.ones(len(genuine)), np.zeros(len(impostor))]
    return roc_curve(is_genuine, np.r_[genuine, impostor], drop_intermediate=False)


@all_cases
@pytest.mark.parametrize("few", [0, 3000, 1 << 20], ids=["counted", "partly collected", "collected"])
def test_answers_are_those_of_the_materialised_scores(monkeypatch, few, embeddings, labels, block_size):
    monkeypatch.setattr("arcface_pl.metrics.functional.all_pairs._FEW", few)
    genuine, impostor = pair_scores(embeddings, labels, block_size=block_size)
    thresholds = [-2.0, -0.1, 0.0, 0.2, float(genuine.median()), float(impostor.max()), 0.9999, 1.5]
    curve = all_pairs_curve(embeddings, labels, far=FARS, thresholds=thresholds, block_size=block_size)
    assert (curve.num_genuine, curve.num_impostor) == (len(genuine), len(impostor))
    expected = verification_curve(genuine, impostor)
    assert curve.equal_error_rate() == expected.equal_error_rate()
    for far in FARS:
        assert curve.tar_at_far(far) == expected.tar_at_far(far)
    for threshold in thresholds:
        assert curve.rates_at_threshold(threshold) == expected.rates_at_threshold(threshold)
    assert abs(curve.auc() - expected.auc()) <= curve.auc_error() + 1e-12
    assert curve.auc_error() == 0 or few < len(genuine) + len(impostor)


@all_cases
def test_every_point_counts_what_scikit_learn_counts(monkeypatch, embeddings, labels, block_size):
    genuine, impostor = pair_scores(embeddings, labels, block_size=block_size)
    far, tar, thresholds = sklearn_roc(genuine, impostor)
    monkeypatch.setattr("arcface_pl.metrics.functional.all_pairs._FEW", 0)
    curve = all_pairs_curve(embeddings, labels, far=FARS, block_size=block_size)
    ours = curve.roc()
    # The last of scikit-learn's (falling) thresholds that is at least ours accepts the same pairs.
    same = np.searchsorted(-thresholds, -ours.thresholds.numpy(), side="right") - 1
    assert np.array_equal(ours.far, far[same])
    assert np.array_equal(ours.tar, tar[same])
    equal_far = tar[far <= 1e-3].max()
    assert curve.tar_at_far(1e-3)[0] == equal_far


@all_cases
def test_pair_scores_are_the_cosines_of_all_pairs(embeddings, labels, block_size):
    unit = F.normalize(embeddings.double(), dim=1)
    cosine = unit @ unit.T
    above = torch.ones_like(cosine, dtype=torch.bool).triu(1)
    same = labels[:, None] == labels
    genuine, impostor = pair_scores(embeddings, labels, block_size=block_size)
    assert torch.allclose(genuine.sort().values.double(), cosine[above & same].sort().values, rtol=0, atol=1e-6)
    assert torch.allclose(impostor.sort().values.double(), cosine[above & ~same].sort().values, rtol=0, atol=1e-6)


@all_cases
def test_a_listed_pair_scores_what_it_scores_among_all_pairs(embeddings, labels, block_size):
    first, second = torch.triu_indices(len(labels), len(labels), 1)
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.randperm(len(first), generator=generator)
    turned = torch.randint(2, first.shape, generator=generator).bool()
    one, other = torch.where(turned, second, first)[shuffled], torch.where(turned, first, second)[shuffled]
    scores = listed_pair_scores(embeddings, labels, one, other, block_size=block_size)
    genuine, impostor = pair_scores(embeddings, labels, block_size=block_size)
    same = labels[one] == labels[other]
    assert scores[same].sort().values.equal(genuine.sort().values)
    assert scores[~same].sort().values.equal(impostor.sort().values)
    unit = F.normalize(embeddings.double(), dim=1)
    assert torch.allclose(scores.double(), (unit[one] * unit[other]).sum(1), rtol=0, atol=1e-6)
    few = torch.randint(len(first), (5,), generator=generator)
    again = listed_pair_scores(embeddings, labels, one[few], other[few], block_size=block_size)
    assert again.equal(scores[few])


def test_agrees_with_one_plain_gemm():
    embeddings, labels, _ = CASES["few classes"]
    unit = F.normalize(embeddings, dim=1)
    above = torch.ones(300, 300, dtype=torch.bool).triu(1)
    same = (labels[:, None] == labels)[above].numpy()
    scores = (unit @ unit.T)[above].numpy()
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    curve = all_pairs_curve(embeddings, labels, far=FARS)
    # Another GEMM may round a score differently, which can move one pair across a threshold.
    for rate in FARS:
        assert curve.tar_at_far(rate)[0] == pytest.approx(tar[far <= rate].max(), abs=1.1 / same.sum())
    # No more can change places than genuine and impostor pairs whose exact cosines are as good as equal.
    unit = F.normalize(embeddings.double(), dim=1)
    exact = (unit @ unit.T)[above].numpy()
    genuine, impostor = exact[same], np.sort(exact[~same])
    near = (np.searchsorted(impostor, genuine + 1e-6) - np.searchsorted(impostor, genuine - 1e-6)).sum()
    assert curve.auc() == pytest.approx(roc_auc_score(same, scores), abs=near / len(genuine) / len(impostor) + 1e-9)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_the_order_of_the_embeddings_does_not_matter(order):
    # Of length 1 and with cosines that float32 holds, so that no order of adding up rounds anything.
    embeddings, labels = clusters(300, 10, 64)
    embeddings, block_size = embeddings.sign() / 8, 64
    permutation = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    permutation = labels.argsort() if order == "sorted" else permutation
    expected = all_pairs_curve(embeddings, labels, far=FARS, block_size=block_size)
    got = all_pairs_curve(embeddings[permutation], labels[permutation], far=FARS, block_size=block_size)
    assert got.equal_error_rate() == expected.equal_error_rate()
    assert got.auc() == expected.auc()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_other_dtypes(dtype):
    embeddings, labels, block_size = CASES["few classes"]
    embeddings = (embeddings * 4).to(dtype)
    exact = embeddings.double() if dtype in (torch.float64, torch.int32) else embeddings.float()
    curve = all_pairs_curve(embeddings, labels.to(torch.int16), block_size=block_size)
    genuine, impostor = pair_scores(exact, labels, block_size=block_size)
    assert curve.equal_error_rate() == equal_error_rate(genuine, impostor, return_threshold=True)


def test_neither_autocast_nor_a_lower_matmul_precision_touches_the_scores():
    embeddings, labels, block_size = CASES["few classes"]
    expected = pair_scores(embeddings, labels, block_size=block_size)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = pair_scores(embeddings, labels, block_size=block_size)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)
    assert all(torch.allclose(a, b, rtol=0, atol=3e-7) for a, b in zip(expected, got, strict=True))


def test_a_small_set_has_every_point_of_scikit_learns_roc():
    embeddings, labels, block_size = CASES["few classes"]
    far, tar, thresholds = sklearn_roc(*pair_scores(embeddings, labels, block_size=block_size))
    ours = all_pairs_curve(embeddings, labels, far=[], block_size=block_size).roc()
    assert np.array_equal(ours.far, far)
    assert np.array_equal(ours.tar, tar)
    assert np.array_equal(ours.thresholds, thresholds)


def test_an_answer_that_was_not_asked_for_is_refused(monkeypatch):
    monkeypatch.setattr("arcface_pl.metrics.functional.all_pairs._FEW", 0)
    embeddings, labels, _ = CASES["few classes"]
    curve = all_pairs_curve(embeddings, labels, far=[0.001])
    with pytest.raises(ValueError, match="^far 0.2: got a value between two points of this curve"):
        curve.tar_at_far(0.2)
    with pytest.raises(ValueError, match="^threshold 0.25001: got a value between two points"):
        curve.rates_at_threshold(0.25001)


def test_never_a_matrix_of_all_pairs(monkeypatch):
    embeddings, labels = clusters(2500, 50, 8)
    monkeypatch.setattr("arcface_pl.metrics.functional.all_pairs._FEW", 0)
    with LargestTensor() as largest:
        all_pairs_curve(embeddings, labels, block_size=512)
    assert largest.num_elements == 2**21 + 1  # the histogram; there are 3,123,750 pairs


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        (torch.ones(3, 2), torch.tensor([0, 0, 0]), "labels: got one class only; expected genuine and impostor pairs"),
        (torch.ones(3, 2), torch.tensor([0, 1, 2]), "labels: got no class twice; expected genuine and impostor pairs"),
        (torch.ones(1, 2), torch.tensor([0]), "embeddings: got one row; expected at least two rows"),
        (torch.ones(0, 2), torch.zeros(0, dtype=torch.int64), r"embeddings: got \(0, 2\); expected shape \(N, D\)"),
        (torch.ones(3, 0), torch.tensor([0, 0, 1]), r"embeddings: got \(3, 0\)"),
        (torch.ones(3), torch.tensor([0, 0, 1]), r"embeddings: got \(3,\); expected shape \(N, D\)"),
        (torch.ones(3, 2, 2), torch.tensor([0, 0, 1]), r"embeddings: got \(3, 2, 2\); expected shape \(N, D\)"),
        (torch.ones(3, 2), torch.tensor([0, 1]), r"labels: got \(2,\); expected an integer tensor of shape \(3,\)"),
        (torch.ones(3, 2), torch.tensor([[0], [0], [1]]), r"labels: got \(3, 1\); expected"),
        (torch.ones(3, 2), torch.tensor([0.0, 0.0, 1.0]), "labels: got torch.float32; expected an integer tensor"),
        (torch.ones(3, 2), [0, 0, 1], "labels: got list; expected an integer tensor"),
        (torch.full((3, 2), torch.nan), torch.tensor([0, 0, 1]), "embeddings: got 6 NaN or infinite of 6 values"),
        (torch.full((3, 2), torch.inf), torch.tensor([0, 0, 1]), "embeddings: got 6 NaN or infinite"),
    ],
)
def test_bad_input_is_refused_by_name(embeddings, labels, message):
    with pytest.raises(ValueError, match=message):
        all_pairs_curve(embeddings, labels)


def test_bad_options_are_refused_by_name():
    embeddings, labels, _ = CASES["three"]
    with pytest.raises(ValueError, match=r"^far: got 2; expected a number in \[0, 1\]"):
        all_pairs_curve(embeddings, labels, far=[2])
    with pytest.raises(ValueError, match="^block_size: got 0; expected a whole number of at least 1"):
        all_pairs_curve(embeddings, labels, block_size=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@all_cases
def test_on_a_gpu(embeddings, labels, block_size):
    embeddings, labels = embeddings.cuda(), labels.cuda()
    genuine, impostor = pair_scores(embeddings, labels, block_size=block_size)
    curve = all_pairs_curve(embeddings, labels, far=FARS, block_size=block_size)
    expected = verification_curve(genuine, impostor)
    assert curve.equal_error_rate() == expected.equal_error_rate()
    assert [curve.tar_at_far(far) for far in FARS] == [expected.tar_at_far(far) for far in FARS]
    assert expected.equal_error_rate()[0] == equal_error_rate(genuine.cpu(), impostor.cpu())


@pytest.mark.slow
def test_six_million_pairs():
    embeddings, labels = clusters(3500, 10, 64, spread=1.5)
    genuine, impostor = pair_scores(embeddings, labels)
    far, tar, thresholds = sklearn_roc(genuine, impostor)
    curve = all_pairs_curve(embeddings, labels, far=[1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
    for rate in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        last = np.searchsorted(far, rate, side="right") - 1
        assert curve.tar_at_far(rate) == (tar[last], thresholds[last])
    assert curve.equal_error_rate() == equal_error_rate(genuine, impostor, return_threshold=True)
