"""Scoring in chunks of classes: what the dense logits give, without a batch x classes tensor."""

import pytest
import torch
from tiny_runs import Largest
from torch import Tensor

from arcface_pl.functional.terms import WHOLE_CELLS
from arcface_pl.heads import HEADS, AngularHead, ArcFaceHead, Head, HeadScores, LinearHead, shard_head

MANY, DIM, BATCH = 9_001, 16, 40
assert MANY * BATCH > WHOLE_CELLS


def build(name: str, num_classes: int = MANY, **kwargs: object) -> Head:
    torch.manual_seed(0)
    head = HEADS[name](DIM, num_classes, **kwargs).eval()
    if name == "CurricularFaceHead":
        head.t.fill_(0.3)
    if name == "LinearHead" and head.bias is not None:
        torch.nn.init.normal_(head.bias, std=0.01)
    return head


def batch(head: Head, size: int = BATCH) -> tuple[Tensor, Tensor]:
    """Embeddings around their centers, near enough that some of them are right."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(head.num_classes, (size,), generator=generator)
    centers = torch.nn.functional.normalize(head.weight.detach()[labels * head.sub_centers])
    return 5 * (centers + 0.18 * torch.randn(size, DIM, generator=generator)), labels


@torch.no_grad()
def dense(head: Head, embeddings: Tensor, labels: Tensor) -> HeadScores:
    """The scores from whole matrices of cosines and logits."""
    cosine, predictions = head.cosine(embeddings), head(embeddings).argmax(1)
    column = labels[:, None]
    return HeadScores(
        predictions,
        cosine.gather(1, predictions[:, None]).squeeze(1),
        cosine.gather(1, column).squeeze(1),
        cosine.scatter(1, column, -torch.inf).amax(1),
        head(embeddings, labels).argmax(1),
        head.loss(embeddings, labels, reduction="none"),
    )


def assert_same(head: Head, got: HeadScores, expected: HeadScores) -> None:
    # A dot product of DIM terms is within DIM * eps / 2 of the truth, whichever kernel adds it up
    rounding = DIM * torch.finfo(torch.float32).eps
    for name in ("predictions", "margin_predictions"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name
        assert getattr(got, name).dtype == torch.int64
    for name in ("predicted_cosine", "target_cosine", "nearest_other_cosine"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), rtol=0, atol=rounding)
    # exp(logit) has the relative error of a logit, and the loss has no more
    atol = rounding * (2 * head.scale_value if isinstance(head, AngularHead) else 10)
    torch.testing.assert_close(got.loss, expected.loss, rtol=2e-6, atol=atol)


CASES = [
    *[(name, {}) for name in HEADS],
    ("ArcFaceHead", {"sub_centers": 3, "label_smoothing": 0.1, "scale": 64.0}),
    ("CosFaceHead", {"scale": 200.0, "class_margins": "frequency"}),
    ("CurricularFaceHead", {"sub_centers": 2, "label_smoothing": 0.1}),
    ("LinearHead", {"use_bias": False, "label_smoothing": 0.1}),
]


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_scores_in_chunks_are_those_of_the_dense_logits(name: str, kwargs: dict) -> None:
    head = build(name, **kwargs)
    embeddings, labels = batch(head)
    got, expected = head.score(embeddings, labels), dense(head, embeddings, labels)
    assert_same(head, got, expected)
    right = (got.predictions == labels).float().mean()
    assert 0 < right < 0.95
    assert not any(value.requires_grad for value in got)
    predictions, cosine = head.predict(embeddings)
    assert torch.equal(predictions, got.predictions)
    assert torch.equal(cosine, got.predicted_cosine)


@pytest.mark.parametrize("name", HEADS)
def test_ties_go_to_the_first_class_as_on_the_dense_path(name: str) -> None:
    """Embeddings along an axis: one product per cosine is not 0, so that no order of summation can part two centers."""
    head = build(name)
    generator = torch.Generator().manual_seed(2)
    kinds = torch.randn(12, DIM, generator=generator)
    nearly = kinds * (1 + torch.finfo(torch.float32).eps * torch.randn(12, DIM, generator=generator).sign())
    rows = torch.cat([kinds, nearly])
    head.weight.data = rows[torch.randint(len(rows), (MANY,), generator=generator)]
    if name == "LinearHead":
        torch.nn.init.zeros_(head.bias)
    embeddings = 4 * torch.eye(DIM).repeat(4, 1)
    # The target is often the last of those that tie, or a bit beside the winner
    winners = head.cosine(embeddings).topk(MANY // 10).indices
    labels = winners.gather(1, torch.randint(winners.shape[1], (len(embeddings), 1), generator=generator)).squeeze(1)
    got, expected = head.score(embeddings, labels), dense(head, embeddings, labels)
    assert_same(head, got, expected)
    for name in ("predicted_cosine", "target_cosine", "nearest_other_cosine"):
        assert torch.equal(getattr(got, name), getattr(expected, name))
    assert (got.predicted_cosine == got.nearest_other_cosine).float().mean() > 0.5


@pytest.mark.parametrize("name", HEADS)
def test_a_small_problem_has_the_dense_scores_to_the_bit(name: str) -> None:
    for num_classes in (1, 2, 10):
        head = build(name, num_classes)
        embeddings, labels = batch(head)
        for got, expected in zip(head.score(embeddings, labels), dense(head, embeddings, labels), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ["ArcFaceHead", "CurricularFaceHead", "LinearHead"])
def test_embeddings_that_are_not_finite_or_zero_score_as_on_the_dense_path(name: str) -> None:
    head = build(name)
    embeddings, labels = batch(head)
    embeddings[0] = 0
    embeddings[1:3] = torch.nan
    labels[2] = 0
    got, expected = head.score(embeddings, labels), dense(head, embeddings, labels)
    for mine, other in zip(got[:5], expected[:5], strict=True):
        torch.testing.assert_close(mine, other, equal_nan=True)
    assert torch.equal(got.loss.isnan(), expected.loss.isnan())


def test_what_a_training_mode_would_move_stays_where_it_is() -> None:
    for name in ("AdaFaceHead", "CurricularFaceHead"):
        head = build(name)
        before = {key: value.clone() for key, value in head.state_dict().items()}
        head.score(*batch(head))
        assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())


@pytest.mark.parametrize("name", HEADS)
def test_no_tensor_of_batch_times_classes_is_made(name: str) -> None:
    head = build(name, 30_000)
    embeddings, labels = batch(head, 128)
    with Largest() as largest:
        head.score(embeddings, labels)
        head.predict(embeddings)
    assert largest.numel < 128 * 30_000 / 8  # the weight itself


def test_a_strangers_forward_or_loss_is_asked_rather_than_guessed() -> None:
    class Doubled(ArcFaceHead):
        def loss(self, embeddings: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
            return 2 * super().loss(embeddings, labels, reduction)

    class Backwards(ArcFaceHead):
        def forward(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
            return -super().forward(embeddings, labels)

    class Halved(LinearHead):
        def cosine(self, embeddings: Tensor) -> Tensor:
            return super().cosine(embeddings) / 2

    for kind in (Doubled, Backwards, Halved):
        head = kind(DIM, MANY)
        embeddings, labels = batch(head)
        expected = dense(head, embeddings, labels)
        for got, other in zip(head.score(embeddings, labels), expected, strict=True):
            assert torch.equal(got, other)
        assert torch.equal(head.predict(embeddings)[0], expected.predictions)


def test_a_sharded_head_scores_as_the_whole_one() -> None:
    head = build("ArcFaceHead")
    embeddings, labels = batch(head)
    expected = head.score(embeddings, labels)
    shared = shard_head(head, sample_rate=0.1)
    for got, other in zip(shared.score(embeddings, labels), expected, strict=True):
        assert torch.equal(got, other)


def test_wrong_batches_are_refused() -> None:
    for name in HEADS:
        head = build(name)
        embeddings, labels = batch(head)
        with pytest.raises(ValueError, match="labels"):
            head.score(embeddings, labels + MANY)
        with pytest.raises(ValueError, match="embeddings"):
            head.score(embeddings[:, :3], labels)
        with pytest.raises(ValueError, match="embeddings"):
            head.predict(embeddings[:, :3])
