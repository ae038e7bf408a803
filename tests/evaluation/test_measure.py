"""The evaluation's scores against scikit-learn and plain loops."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score, roc_curve
from torch.utils._python_dispatch import TorchDispatchMode

from arcface_pl.backbones import FastCNN, IResNet, SimpleCNN
from arcface_pl.data.sources.catalog import CATALOG
from arcface_pl.evaluation.enrolled import NUM_DRAWS, identification, one_shot
from arcface_pl.evaluation.measure import (
    Embedded,
    classification,
    embed,
    evaluate,
    pair_verification,
    retrieval,
)
from arcface_pl.evaluation.protocols import PROTOCOLS
from arcface_pl.heads import ArcFaceHead, LinearHead
from arcface_pl.metrics.functional import fold_accuracy, knn_accuracy, recall_at_k
from arcface_pl.seeding import derive_seed


def clusters(num: int, num_classes: int, seed: int = 0) -> Embedded:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num,), generator=generator)
    centers = torch.randn(num_classes, 8, generator=generator)
    return Embedded(centers[labels] + torch.randn(num, 8, generator=generator), labels)


def cosines(embedded: Embedded) -> np.ndarray:
    unit = F.normalize(embedded.embeddings, dim=1)
    return (unit @ unit.T).double().numpy()


class CountCalls(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


class Pairs:
    def __init__(self, num_images: int, num_pairs: int, labels: torch.Tensor) -> None:
        generator = torch.Generator().manual_seed(1)
        self.first, self.second = torch.randint(num_images, (2, num_pairs), generator=generator)
        self.is_genuine = labels[self.first] == labels[self.second]
        self.folds = torch.arange(num_pairs) % 4


def test_embed_keeps_the_order_of_the_batches() -> None:
    images, labels = torch.randn(7, 1, 2, 2), torch.arange(7)
    batches = list(zip(images.split(3), labels.split(3), strict=True))
    embedded = embed(lambda batch: batch.flatten(1) * 2, batches)
    assert embedded.embeddings.equal(images.flatten(1) * 2)
    assert embedded.labels.equal(labels)


def test_the_flip_test_adds_the_mirror_images() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    images, labels = torch.randn(6, 1, 3, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    with torch.no_grad():
        mirrored = torch.from_numpy(images.numpy()[..., ::-1].copy())
        total = network(images) + network(mirrored)
        found = embed(network, [(images[:4], labels[:4]), (images[4:], labels[4:])], flip=True)
    torch.testing.assert_close(found.embeddings, total / 2, rtol=0, atol=1e-6)
    assert evaluate(found, list("abc")).scores == evaluate(Embedded(total, labels), list("abc")).scores
    assert found.labels.equal(labels)


def test_verification_is_scikit_learns() -> None:
    embedded = clusters(60, 4)
    scores = evaluate(embedded, list("abcd")).scores["verification"]
    upper = np.triu_indices(60, 1)
    is_genuine = (embedded.labels[:, None] == embedded.labels).numpy()[upper]
    cosine = cosines(embedded)[upper]
    far, tar, _ = roc_curve(is_genuine, cosine, drop_intermediate=False)
    assert scores["auc"] == pytest.approx(roc_auc_score(is_genuine, cosine), abs=1e-9)
    for rate in (0.1, 0.01, 0.001):
        assert scores[f"tar_at_far_{rate:g}"] == pytest.approx(tar[far <= rate].max(), abs=1e-12)
    assert "tar_at_far_0.0001" not in scores  # there are not 10,000 impostor pairs to tell it by
    assert (scores["num_genuine"], scores["num_impostor"]) == (is_genuine.sum(), (~is_genuine).sum())
    closest = np.abs(far + tar - 1).argmin()
    assert scores["eer"] == pytest.approx((far[closest] + 1 - tar[closest]) / 2, abs=1 / is_genuine.sum())


def test_classification_never_sees_the_label() -> None:
    embedded = clusters(50, 3)
    head = ArcFaceHead(8, 3).eval()
    scores = classification(head, *embedded)
    cosine = F.normalize(embedded.embeddings, dim=1) @ F.normalize(head.weight.detach(), dim=1).T
    assert scores["accuracy"] == pytest.approx((cosine.argmax(1) == embedded.labels).double().mean().item())
    degrees = torch.rad2deg(cosine.double().acos())
    own = degrees[torch.arange(50), embedded.labels]
    others = degrees.scatter(1, embedded.labels[:, None], torch.inf).amin(1)
    assert scores["target_mean"] == pytest.approx(own.mean().item(), abs=1e-4)
    assert scores["gap_mean"] == pytest.approx((others - own).mean().item(), abs=1e-4)
    linear = LinearHead(8, 3).eval()
    with torch.no_grad():
        linear.weight[2] *= 10  # a long row wins by its length, which a cosine would not see
    right = (linear(embedded.embeddings).argmax(1) == embedded.labels).double().mean().item()
    assert classification(linear, *embedded)["accuracy"] == pytest.approx(right)


def test_retrieval_is_a_plain_search() -> None:
    embedded = clusters(40, 5)
    cosine = cosines(embedded)
    np.fill_diagonal(cosine, -2)
    ranked = embedded.labels.numpy()[np.argsort(-cosine, axis=1)] == embedded.labels.numpy()[:, None]
    scores = retrieval(*embedded)
    for rank in (1, 5, 10):
        assert scores[f"recall_at_{rank}"] == pytest.approx(ranked[:, :rank].any(1).mean())
    smallest = int(embedded.labels.bincount().min())
    assert scores["knn_neighbours"] == smallest - 1 == 3
    assert scores["knn_accuracy"] == knn_accuracy(*embedded, k=3) > 0


@pytest.mark.parametrize("sizes", [(2, 2), (2, 2, 2), (3, 3, 3), (2, 7, 30), (40, 4), (20, 20, 20), (2, 1, 1, 5)])
def test_embeddings_that_separate_the_classes_score_everything(sizes: tuple[int, ...]) -> None:
    """No score is below 100% for its classes' sizes alone, however few images they have."""
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    found = evaluate(Embedded(torch.eye(len(sizes))[labels], labels), [*map(str, range(len(sizes)))])
    shares = {
        name: value for name, value in found.scores["retrieval"].items() if name != "knn_neighbours"
    } | found.scores.get("identification", {})
    assert shares == dict.fromkeys(shares, 1.0)
    assert found.scores["retrieval"]["knn_neighbours"] == min(5, *(size - 1 for size in sizes if size > 1))


def test_scores_that_classes_of_two_do_not_allow_are_named() -> None:
    labels = torch.arange(3).repeat_interleave(2)
    found = evaluate(Embedded(torch.eye(3)[labels], labels), list("abc"))
    assert set(found.scores["retrieval"]) == {
        "recall_at_1",
        "r_precision",
        "map_at_r",
        "knn_accuracy",
        "knn_neighbours",
    }
    assert found.not_measured == [
        "TAR at FAR 1%, 0.1%, 0.01%: 12 impostor pairs are too few",
        "recall@5, recall@10: with so few images of other classes there is always one of the class among them",
        "identification with 5 enrolled: a class has no more images than that",
    ]


@pytest.mark.parametrize("sizes", [(2, 2), (3, 3, 3), (2, 7, 30), (40, 4), (20, 20, 20)])
def test_the_worst_embeddings_score_nothing_in_retrieval(sizes: tuple[int, ...]) -> None:
    """No score is above 0 for its classes' sizes alone: each image is nearer to all others than to its class."""
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    centers, count = torch.eye(len(sizes))[labels], len(labels)
    # Images of a class are orthogonal, and at a positive cosine to those of all other classes
    gram = 2 * count * torch.eye(count) + (1 - centers @ centers.T)
    scores = retrieval(torch.linalg.cholesky(gram), labels)
    scores.pop("knn_neighbours")
    assert {name: value for name, value in scores.items() if name.startswith(("recall", "knn"))} == dict.fromkeys(
        (name for name in scores if name.startswith(("recall", "knn"))), 0.0
    )


def test_identification_draws_galleries_from_its_seed() -> None:
    embedded = clusters(80, 4)
    scores = identification(*embedded)
    assert scores == identification(*embedded)
    assert scores != identification(*embedded, seed=1)
    assert scores["rank_1_of_1_enrolled"] < scores["rank_1_of_5_enrolled"] < 1
    alone = Embedded(torch.eye(6).repeat(3, 1), torch.arange(6).repeat(3))
    assert identification(*alone) == {"rank_1_of_1_enrolled": 1.0}  # of three images five cannot be enrolled


def test_listed_pairs_are_scored_by_their_own_folds() -> None:
    embedded = clusters(60, 3)
    pairs = Pairs(60, 200, embedded.labels)
    scores = pair_verification(*embedded, pairs)
    cosine = torch.from_numpy(cosines(embedded))[pairs.first, pairs.second].float()
    # Far enough apart that no rounding makes a genuine and an impostor pair change places.
    assert (cosine[pairs.is_genuine, None] - cosine[~pairs.is_genuine]).abs().min() > 1e-6
    assert scores["auc"] == pytest.approx(roc_auc_score(pairs.is_genuine.numpy(), cosine.numpy()), abs=1e-9)
    assert scores["fold_accuracy"] == pytest.approx(fold_accuracy(cosine, pairs.is_genuine, pairs.folds).mean, abs=0.01)


def test_what_the_images_do_not_allow_is_left_out_and_named() -> None:
    one_class = Embedded(torch.randn(5, 8), torch.zeros(5, dtype=torch.int64))
    assert evaluate(one_class, ["a"]).scores == {}
    kinds = "verification, retrieval and identification"
    assert evaluate(one_class, ["a"]).not_measured == [f"{kinds}: all images are of one class"]
    lone = Embedded(torch.randn(3, 8), torch.arange(3))
    assert evaluate(lone, list("abc")).curve is None
    assert evaluate(lone, list("abc")).not_measured == [f"{kinds}: no class has two images"]
    assert set(evaluate(lone, list("abc"), head=ArcFaceHead(8, 3).eval()).scores) == {"classification"}


TOO_FEW = "TAR at FAR 0.01%: 1,169 impostor pairs are too few"


@pytest.mark.parametrize("kind", [True, False])
def test_a_list_of_one_kind_is_counted_and_said(kind: bool) -> None:
    embedded = clusters(60, 3)
    pairs = Pairs(60, 200, embedded.labels)
    keep = pairs.is_genuine == kind
    for name in ("first", "second", "is_genuine", "folds"):
        setattr(pairs, name, getattr(pairs, name)[keep])
    found = evaluate(embedded, list("abc"), pairs=pairs)
    count = int(keep.sum())
    assert found.scores["pairs"] == {"num_genuine": count * kind, "num_impostor": count * (not kind)}
    missing = "impostor" if kind else "genuine"
    assert found.not_measured == [f"error rates of the listed pairs: the list has no {missing} pairs", TOO_FEW]
    assert {"verification", "retrieval"} <= set(found.scores)


def test_a_fold_of_one_kind_leaves_the_error_rates_of_the_list() -> None:
    embedded = clusters(60, 3)
    pairs = Pairs(60, 200, embedded.labels)
    pairs.folds[pairs.is_genuine & (pairs.folds == 2)] = 3
    found = evaluate(embedded, list("abc"), pairs=pairs)
    assert "eer" in found.scores["pairs"]
    assert "fold_accuracy" not in found.scores["pairs"]
    reason = "accuracy by folds: not every one of two or more folds has pairs of both kinds"
    assert found.not_measured == [reason, TOO_FEW]


def test_a_pair_of_an_image_that_is_not_there_is_refused() -> None:
    embedded = clusters(60, 3)
    pairs = Pairs(60, 200, embedded.labels)
    pairs.second[7] = -1
    with pytest.raises(ValueError, match=r"second: got \[-1\]; expected indices in \[0, 60\)"):
        evaluate(embedded, list("abc"), pairs=pairs)


def test_galleries_are_those_of_a_search_for_each_class() -> None:
    """The draws as they were made before: the images of each class by a search over all labels."""
    embedded = clusters(80, 4, seed=3)
    members = [(embedded.labels == label).nonzero().flatten() for label in embedded.labels.unique()]
    found = []
    for draw in range(NUM_DRAWS):
        generator = torch.Generator().manual_seed(derive_seed(0, "gallery", 5, draw))
        gallery = torch.cat([each[torch.randperm(len(each), generator=generator)[:5]] for each in members])
        query = torch.ones(80, dtype=torch.bool).index_fill(0, gallery, False)
        chosen = {"gallery_embeddings": embedded.embeddings[gallery], "gallery_labels": embedded.labels[gallery]}
        found.append(recall_at_k(embedded.embeddings[query], embedded.labels[query], 1, **chosen))
    assert identification(*embedded)["rank_1_of_5_enrolled"] == sum(found) / NUM_DRAWS


def test_the_images_of_each_class_are_found_by_one_sort() -> None:
    """No operation runs once per class."""
    labels = torch.arange(20_000) // 2
    with CountCalls() as calls:
        identification(torch.randn(20_000, 2), labels, enrolled=())
    assert calls.count < 100


def test_embeddings_of_a_network_that_diverged_are_refused() -> None:
    broken = clusters(10, 2)
    broken.embeddings[3, 2] = torch.nan
    with pytest.raises(ValueError, match="embeddings: got 1 NaN"):
        evaluate(broken, ["a", "b"])


def test_protocols_name_disjoint_classes_of_known_sets() -> None:
    held_out = [protocol.held_out for protocol in PROTOCOLS.values() if protocol.held_out]
    assert sorted(sum(held_out, ())) == list(range(10))  # the five splits leave each digit out once
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        if name == "omniglot":
            continue
        assert {protocol.trained_on, protocol.evaluated_on} <= set(CATALOG)
        trained = protocol.trained_class_names
        assert len(trained) == 10 - len(protocol.held_out)
        assert not set(trained) & {CATALOG["mnist"].class_names[label] for label in protocol.held_out}
        evaluated = protocol.settings["init_args"]
        assert evaluated == {
            "dataset": protocol.evaluated_on,
            "classes": None,
            "held_out_classes": list(protocol.held_out),
        }


def test_one_shot_runs_are_scored_as_a_loop_over_queries_would() -> None:
    embedded = clusters(60, 4)
    generator = torch.Generator().manual_seed(1)
    runs, rates = [], []
    for count in (2, 4, 3):
        enrolled, queries = (torch.randperm(60, generator=generator)[:count] for _ in range(2))
        targets = torch.randint(count, (count,), generator=generator)
        runs.append(SimpleNamespace(enrolled=enrolled, queries=queries, targets=targets))
        table = cosines(embedded)
        nearest = [max(range(count), key=lambda each, q=query: table[q, enrolled[each]]) for query in queries]
        rates.append(np.mean([found == int(target) for found, target in zip(nearest, targets, strict=True)]))
    scores = evaluate(embedded, list("abcd"), runs=runs).scores["one_shot"]
    assert scores["num_runs"] == 3
    assert scores["one_shot_accuracy"] == pytest.approx(np.mean(rates))
    assert scores["one_shot_standard_error"] == pytest.approx(np.std(rates, ddof=1) / 3**0.5)
    assert "one_shot_standard_error" not in one_shot(embedded.embeddings, runs[:1])
    assert "one-shot classification: its runs are missing" in evaluate(embedded, list("abcd"), runs=[]).not_measured


@pytest.mark.parametrize("network", [SimpleCNN(16), FastCNN(16), IResNet(18, 16, in_channels=1, image_size=28)])
def test_an_images_result_does_not_depend_on_its_company(network: torch.nn.Module) -> None:
    """Alone, in batches of any size and in any order it has the same embedding, but for float32's rounding."""
    generator = torch.Generator().manual_seed(0)
    images, device = torch.rand(24, 1, 28, 28, generator=generator), torch.device("cpu")
    found = []
    for size, order in ((1, torch.arange(24)), (24, torch.arange(24)), (7, torch.randperm(24, generator=generator))):
        batches = [(images[part], part) for part in order.split(size)]
        embedded = embed(network.eval(), batches, device)
        found.append(F.normalize(embedded.embeddings[embedded.labels.argsort()].double(), dim=1))
    for other in found[1:]:
        assert ((found[0] * other).sum(1) >= 1 - 1e-7).all()
        # An eps of float32 for each of a hundred layers
        assert (found[0] @ found[0].T - other @ other.T).abs().max() <= 100 * 2**-23
