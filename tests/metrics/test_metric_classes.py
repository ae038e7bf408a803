"""The torchmetrics classes: equal to the functions over everything they were given, in one process and in two."""

import pickle

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

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

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(6, (90,), generator=GENERATOR)
EMBEDDINGS = torch.randn(6, 8, generator=GENERATOR)[LABELS] + torch.randn(90, 8, generator=GENERATOR)
CENTERS = torch.randn(6, 8, generator=GENERATOR)
IS_GENUINE = torch.arange(90) % 3 == 0
SCORES = torch.randn(90, generator=GENERATOR) + IS_GENUINE
FOLDS = torch.arange(90) // 9


def expected_of(name):
    if name == "all pairs":
        curve = all_pairs_curve(EMBEDDINGS, LABELS, far=[0.01, 0.1])
        rate, threshold = curve.equal_error_rate()
        tars = {"tar_at_far_0.01": curve.tar_at_far(0.01)[0], "tar_at_far_0.1": curve.tar_at_far(0.1)[0]}
        return {"eer": rate, "eer_threshold": threshold, "auc": curve.auc(), **tars}
    if name == "pairs":
        genuine, impostor = SCORES[IS_GENUINE], SCORES[~IS_GENUINE]
        rate, threshold = equal_error_rate(genuine, impostor, return_threshold=True)
        mean, standard_error, _, _ = fold_accuracy(SCORES, IS_GENUINE, FOLDS)
        folds = {"fold_accuracy": mean, "fold_accuracy_standard_error": standard_error}
        verification = {"eer": rate, "eer_threshold": threshold, "auc": auc(genuine, impostor)}
        return {**verification, "tar_at_far_0.1": tar_at_far(genuine, impostor, 0.1), **folds}
    if name == "retrieval":
        matched = cumulative_match_characteristic(EMBEDDINGS, LABELS, 4)
        r_precision, map_at_r = precision_at_r(EMBEDDINGS, LABELS)
        ours = {"recall_at_1": matched[0], "recall_at_4": matched[3], "r_precision": r_precision, "map_at_r": map_at_r}
        return {**ours, "knn_accuracy": knn_accuracy(EMBEDDINGS, LABELS, 3)}
    angles = target_angles(EMBEDDINGS, LABELS, CENTERS)
    means = {"target_mean": angles.target, "nearest_other_mean": angles.nearest_other, "gap_mean": angles.gap}
    return {key: value.mean() for key, value in means.items()}


def metric_of(name):
    return {
        "all pairs": lambda: AllPairsVerification(far=[0.01, 0.1]),
        "pairs": lambda: PairVerification(far=[0.1]),
        "retrieval": lambda: Retrieval(recall_at=[1, 4], num_neighbours=3),
        "angles": AngleStatistics,
    }[name]()


def update(metric, rows):
    if isinstance(metric, PairVerification):
        metric.update(SCORES[rows], IS_GENUINE[rows], FOLDS[rows])
    elif isinstance(metric, AngleStatistics):
        metric.update(EMBEDDINGS[rows], LABELS[rows], CENTERS)
    else:
        metric.update(EMBEDDINGS[rows], LABELS[rows])


def assert_as_expected(result, name):
    expected = expected_of(name)
    assert list(result) == list(expected)
    for key, value in expected.items():
        assert float(result[key]) == pytest.approx(float(value), abs=1e-6), key


NAMES = ["all pairs", "pairs", "retrieval", "angles"]


@pytest.mark.parametrize("name", NAMES)
def test_batches_add_up(name):
    metric = metric_of(name)
    for rows in torch.arange(90).split(40):
        update(metric, rows)
    assert_as_expected(metric.compute(), name)
    metric.reset()
    update(metric, torch.arange(90))
    assert_as_expected(pickle.loads(pickle.dumps(metric)).compute(), name)


@pytest.mark.parametrize("name", NAMES)
def test_inference_mode_and_gradients(name):
    metric = metric_of(name)
    with torch.inference_mode():
        update(metric, torch.arange(90))
        assert_as_expected(metric.compute(), name)


def test_half_precision_batches():
    metric = AllPairsVerification(far=[0.1])
    metric.update(EMBEDDINGS.bfloat16(), LABELS)
    expected = all_pairs_curve(EMBEDDINGS.bfloat16().float(), LABELS, far=[0.1])
    assert float(metric.compute()["eer"]) == pytest.approx(expected.equal_error_rate()[0], abs=1e-7)


def test_pairs_without_folds_have_no_fold_accuracy():
    metric = PairVerification(far=[])
    metric.update(SCORES, IS_GENUINE.int())
    assert list(metric.compute()) == ["eer", "eer_threshold", "auc"]
    metric.update(SCORES, IS_GENUINE, FOLDS)
    with pytest.raises(ValueError, match="for every pair or for none, got 90 for 180 pairs"):
        metric.compute()


def test_bad_batches_are_refused_at_once():
    for metric in (AllPairsVerification(), Retrieval()):
        with pytest.raises(ValueError, match="embeddings must have shape"):
            metric.update(EMBEDDINGS[0], LABELS[:1])
        with pytest.raises(ValueError, match="labels must have shape"):
            metric.update(EMBEDDINGS, LABELS[:5])
    with pytest.raises(ValueError, match="1-D"):
        PairVerification().update(EMBEDDINGS, LABELS)
    with pytest.raises(ValueError, match="integer dtype"):
        PairVerification().update(SCORES, SCORES)
    with pytest.raises(ValueError, match="far must lie in"):
        AllPairsVerification(far=[-1])
    with pytest.raises(ValueError, match="recall_at must name"):
        Retrieval(recall_at=[])


def work(rank, rendezvous, failures):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    try:
        # Uneven shares, and then all of it on one process: the other never sees a batch.
        for shares in ([60, 30], [90, 0]):
            rows = torch.arange(90).split(shares)[rank]
            for name in NAMES:
                metric = metric_of(name)
                for batch in rows.split(25):
                    if len(batch):
                        update(metric, batch)
                assert_as_expected(metric.compute(), name)
        dist.barrier()
    except BaseException as error:
        failures.put(f"rank {rank}: {error!r}")
        raise
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_two_processes_agree_with_one(tmp_path):
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
