"""Every torchmetrics class in one harness: batches, forward(), small batches, pickling, dtypes, two processes."""

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torchmetrics import Metric

from arcface_pl.metrics import AllPairsVerification, AngleStatistics, PairVerification, Retrieval
from arcface_pl.metrics.functional import (
    all_pairs_curve,
    auc,
    cumulative_match_characteristic,
    equal_error_rate,
    fold_accuracy,
    knn_accuracy,
    precision_at_r,
    tar_at_far,
    target_angles,
)

NUM = 90
GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(6, (NUM,), generator=GENERATOR)
EMBEDDINGS = torch.randn(6, 8, generator=GENERATOR)[LABELS] + torch.randn(NUM, 8, generator=GENERATOR)
CENTERS = torch.randn(6, 8, generator=GENERATOR)
IS_GENUINE = torch.arange(NUM) % 3 == 0
SCORES = torch.randn(NUM, generator=GENERATOR) + IS_GENUINE
FOLDS = torch.arange(NUM) // 9


def all_pairs(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    curve = all_pairs_curve(embeddings, labels, far=[0.01, 0.1])
    rate, threshold = curve.equal_error_rate()
    tars = {f"tar_at_far_{far}": curve.tar_at_far(far)[0] for far in (0.01, 0.1)}
    return {"eer": rate, "eer_threshold": threshold, "auc": curve.auc(), **tars}


def pairs(scores: Tensor, is_genuine: Tensor, folds: Tensor) -> dict[str, float]:
    genuine, impostor = scores[is_genuine], scores[~is_genuine]
    rate, threshold = equal_error_rate(genuine, impostor, return_threshold=True)
    mean, standard_error, _, _ = fold_accuracy(scores, is_genuine, folds)
    verification = {"eer": rate, "eer_threshold": threshold, "auc": auc(genuine, impostor)}
    by_fold = {"fold_accuracy": mean, "fold_accuracy_standard_error": standard_error}
    return {**verification, "tar_at_far_0.1": tar_at_far(genuine, impostor, 0.1), **by_fold}


def retrieval(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    matched = cumulative_match_characteristic(embeddings, labels, 4)
    r_precision, map_at_r = precision_at_r(embeddings, labels)
    recall = {"recall_at_1": float(matched[0]), "recall_at_4": float(matched[3])}
    return {
        **recall,
        "r_precision": r_precision,
        "map_at_r": map_at_r,
        "knn_accuracy": knn_accuracy(embeddings, labels, 3),
    }


def angles(embeddings: Tensor, labels: Tensor, centers: Tensor) -> dict[str, float]:
    found = target_angles(embeddings, labels, centers)
    means = {"target_mean": found.target, "nearest_other_mean": found.nearest_other, "gap_mean": found.gap}
    return {key: float(value.mean()) for key, value in means.items()}


@dataclass
class Case:
    """A metric, what it is given (by row), and the function whose values it must return."""

    make: Callable[[], Metric]
    expected: Callable[..., dict[str, float]]
    columns: tuple[Tensor, ...]
    whole: tuple[Tensor, ...] = ()  # given with every batch

    def rows(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        inputs = [*(column[rows] for column in self.columns), *self.whole]
        return [each.to(dtype) if each.is_floating_point() else each for each in inputs]


CASES = {
    "all pairs": Case(lambda: AllPairsVerification(far=[0.01, 0.1]), all_pairs, (EMBEDDINGS, LABELS)),
    "pairs": Case(lambda: PairVerification(far=[0.1]), pairs, (SCORES, IS_GENUINE, FOLDS)),
    "retrieval": Case(lambda: Retrieval(recall_at=[1, 4], num_neighbours=3), retrieval, (EMBEDDINGS, LABELS)),
    "angles": Case(AngleStatistics, angles, (EMBEDDINGS, LABELS), (CENTERS,)),
}
every_metric = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def assert_equal(result: dict[str, Tensor], expected: dict[str, float]) -> None:
    assert list(result) == list(expected)
    for key, value in expected.items():
        assert float(result[key]) == pytest.approx(value, abs=1e-6), key


@every_metric
def test_batches_add_up_and_a_reset_forgets_them(case: Case) -> None:
    metric, expected = case.make(), case.expected(*case.rows(torch.arange(NUM)))
    for rows in torch.arange(NUM).split(40):
        metric.update(*case.rows(rows))
    assert_equal(metric.compute(), expected)
    metric.reset()
    metric.update(*case.rows(torch.arange(NUM)))
    assert_equal(metric.compute(), expected)


@every_metric
def test_forward_returns_the_batch_and_keeps_the_whole(case: Case) -> None:
    metric = case.make()
    for rows in torch.arange(NUM).split(45):
        assert_equal(metric(*case.rows(rows)), case.expected(*case.rows(rows)))
    assert_equal(metric.compute(), case.expected(*case.rows(torch.arange(NUM))))


@every_metric
@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.filterwarnings("ignore:.* do not allow ")
def test_forward_of_small_batches(case: Case, size: int) -> None:
    metric, expected = case.make(), case.expected(*case.rows(torch.arange(NUM)))
    for rows in torch.arange(NUM).split(size):
        found = metric(*case.rows(rows))
        assert set(found) == set(expected)
        if size == 1 and not isinstance(metric, AngleStatistics):
            assert all(value.isnan() for value in found.values())
    assert_equal(metric.compute(), expected)


@every_metric
def test_pickling_with_and_without_rows(case: Case) -> None:
    metric = pickle.loads(pickle.dumps(case.make()))
    metric.update(*case.rows(torch.arange(NUM)))
    again = pickle.loads(pickle.dumps(metric))
    assert_equal(again.compute(), case.expected(*case.rows(torch.arange(NUM))))


@every_metric
def test_inference_mode(case: Case) -> None:
    metric = case.make()
    with torch.inference_mode():
        metric.update(*case.rows(torch.arange(NUM)))
        assert_equal(metric.compute(), case.expected(*case.rows(torch.arange(NUM))))


@every_metric
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(case: Case, dtype: torch.dtype) -> None:
    metric = case.make()
    metric.update(*case.rows(torch.arange(NUM), dtype))
    expected = case.expected(*case.rows(torch.arange(NUM), dtype))
    assert_equal(metric.compute(), expected)
    assert all(value.dtype == torch.float32 for value in metric.compute().values())


@every_metric
def test_gradients_are_not_kept(case: Case) -> None:
    metric = case.make()
    inputs = case.rows(torch.arange(NUM))
    metric.update(inputs[0].clone().requires_grad_(), *inputs[1:])
    assert not any(value.requires_grad for value in metric.compute().values())


def work(rank: int, rendezvous: str, failures: mp.SimpleQueue) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    try:
        # Uneven shares, and then all rows in one process: the other never sees a batch
        for shares in ([60, 30], [90, 0]):
            rows = torch.arange(NUM).split(shares)[rank]
            for case in CASES.values():
                metric = case.make()
                for batch in rows.split(25):
                    if len(batch):
                        metric.update(*case.rows(batch))
                assert_equal(metric.compute(), case.expected(*case.rows(torch.arange(NUM))))
        dist.barrier()
    except BaseException as error:
        failures.put(f"rank {rank}: {error!r}")
        raise
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_two_processes_agree_with_one(tmp_path) -> None:
    failures = mp.get_context("spawn").SimpleQueue()
    processes = mp.spawn(work, args=(str(tmp_path / "rendezvous"), failures), nprocs=2, join=False)
    try:
        assert processes is not None
        while not processes.join(timeout=100):
            pass
    finally:
        for process in processes.processes:
            process.kill()
    assert failures.empty(), failures.get()


def test_pairs_without_folds_have_no_fold_accuracy() -> None:
    metric = PairVerification(far=[])
    metric.update(SCORES, IS_GENUINE.int())
    assert list(metric.compute()) == ["eer", "eer_threshold", "auc"]
    metric.update(SCORES, IS_GENUINE, FOLDS)
    with pytest.raises(ValueError, match="^folds: got 90 for 180 pairs; expected one per pair, or none"):
        metric.compute()


@pytest.mark.parametrize("kind", [True, False])
def test_a_list_of_one_kind_has_no_error_rates(kind: bool) -> None:
    metric = PairVerification(far=[0.1])
    metric.update(SCORES[:20], torch.full((20,), kind), FOLDS[:20])
    counts = "20 genuine and 0 impostor pairs" if kind else "0 genuine and 20 impostor pairs"
    with pytest.warns(UserWarning, match=f"PairVerification: {counts} do not allow eer, .*, fold_accuracy"):
        found = metric.compute()
    assert len(found) == 6
    assert all(math.isnan(value) for value in found.values())


def test_a_fold_of_one_kind_leaves_the_error_rates() -> None:
    is_genuine, folds = IS_GENUINE.clone(), FOLDS
    is_genuine[folds == 3] = True
    metric = PairVerification(far=[])
    metric.update(SCORES, is_genuine, folds)
    with pytest.warns(UserWarning, match="do not allow fold_accuracy, fold_accuracy_standard_error"):
        found = metric.compute()
    assert float(found["eer"]) == pytest.approx(equal_error_rate(SCORES[is_genuine], SCORES[~is_genuine]))


@pytest.mark.parametrize("labels", [torch.zeros(8, dtype=torch.int64), torch.arange(8)])
def test_embeddings_without_pairs_of_both_kinds_have_no_error_rates(labels: Tensor) -> None:
    metric = AllPairsVerification()
    metric.update(EMBEDDINGS[:8], labels)
    with pytest.warns(UserWarning, match=f"8 embeddings of {len(labels.unique())} classes do not allow eer"):
        assert all(math.isnan(value) for value in metric.compute().values())


def test_retrieval_on_eight_items_reports_what_eight_items_allow() -> None:
    metric = Retrieval()
    metric.update(EMBEDDINGS[:8], torch.arange(8) // 2)
    with pytest.warns(UserWarning, match="Retrieval: 8 embeddings of 4 classes do not allow recall_at_10"):
        found = metric.compute()
    expected = cumulative_match_characteristic(EMBEDDINGS[:8], torch.arange(8) // 2, 5)
    assert float(found["recall_at_1"]) == pytest.approx(float(expected[0]))
    assert float(found["recall_at_5"]) == pytest.approx(float(expected[4]))
    assert float(found["knn_accuracy"]) == pytest.approx(knn_accuracy(EMBEDDINGS[:8], torch.arange(8) // 2, 1))
    assert [name for name, value in found.items() if math.isnan(value)] == ["recall_at_10"]


def test_retrieval_where_no_class_repeats_votes_all_the_same() -> None:
    metric = Retrieval(recall_at=[1], num_neighbours=2)
    metric.update(EMBEDDINGS[:5], torch.arange(5))
    with pytest.warns(UserWarning, match="do not allow recall_at_1, r_precision, map_at_r"):
        assert float(metric.compute()["knn_accuracy"]) == 0


def test_bad_batches_are_refused_at_once() -> None:
    for metric in (AllPairsVerification(), Retrieval()):
        with pytest.raises(ValueError, match=r"^embeddings: got \(8,\); expected shape \(B, D\)"):
            metric.update(EMBEDDINGS[0], LABELS[:1])
        with pytest.raises(ValueError, match=r"^labels: got \(5,\); expected an integer tensor of shape \(90,\)"):
            metric.update(EMBEDDINGS, LABELS[:5])
    with pytest.raises(ValueError, match=r"^scores: got \(90, 8\); expected shape \(P,\)"):
        PairVerification().update(EMBEDDINGS, LABELS)
    with pytest.raises(ValueError, match="^is_genuine: got torch.float32; expected an integer tensor"):
        PairVerification().update(SCORES, SCORES)
    with pytest.raises(ValueError, match="^far: got -1; expected a number"):
        AllPairsVerification(far=[-1])
    with pytest.raises(ValueError, match="^recall_at: got \\[\\]; expected whole numbers"):
        Retrieval(recall_at=[])
    with pytest.raises(ValueError, match="^num_neighbours: got 0"):
        Retrieval(num_neighbours=0)
