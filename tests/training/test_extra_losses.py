"""Losses beside the head's: values, gradients, precision, parameters of their own, checkpoints, and what is refused."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import pytorch_metric_learning
import torch
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper, DistributedMinerWrapper
from tiny_runs import QUIET
from torch import Tensor, nn

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule
from arcface_pl.callbacks import ExponentialMovingAverage
from arcface_pl.errors import CheckpointError, NonFiniteError
from arcface_pl.training.extra_losses import ExtraLoss, ExtraLosses
from arcface_pl.training.loss_specs import build_losses, restorable

D, C = 8, 10
LABELS = torch.tensor([0, 0, 3, 3, 9, 9, 4, 4])


def embeddings(seed: int = 0) -> Tensor:
    return torch.randn(8, D, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def spread(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Mean squared distance to the mean of the class."""
    means = torch.stack([embeddings[labels == label].mean(0) for label in labels])
    return (embeddings - means).square().sum(1).mean()


class Pull:
    """Not a module, and with a setting."""

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.factor * spread(embeddings, labels)


class Random(nn.Module):
    """Draws from every generator that a loss may draw from."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        import random

        drawn = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002
        return drawn * embeddings.square().mean()


def made(extra: Any, **arguments: Any) -> ArcFaceModule:
    torch.manual_seed(0)
    arguments = {"optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9), **arguments}
    return ArcFaceModule(FastCNN(D, width=4), ArcFaceHead(D, C), extra_losses=extra, **arguments)


def fit(
    folder: Path, module: ArcFaceModule, epochs: int = 1, checkpoint: Path | None = None, **trainer: Any
) -> L.Trainer:
    L.seed_everything(0, verbose=False)
    data = MNISTDataModule(dataset="digits", batch_size=32, images_per_class=4)
    settings = {**QUIET, "max_epochs": epochs, "limit_train_batches": 3, "limit_val_batches": 1, **trainer}
    runner = L.Trainer(**settings, default_root_dir=folder)
    runner.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return runner


def test_the_total_is_the_heads_loss_plus_each_loss_times_its_weight(tmp_path: Path) -> None:
    miner, loss = miners.MultiSimilarityMiner(), losses.TripletMarginLoss(margin=0.2)
    module = made([ExtraLoss(loss, 0.5, miner), ExtraLoss(spread, 3.0), ExtraLoss(Pull())], optimizer=None)
    trainer = L.Trainer(**QUIET)
    module.trainer = trainer
    logged: dict[str, Any] = {}
    module.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    module.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign]
    images = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    total = module.training_step((images, LABELS), 0)
    with torch.no_grad():
        found = module(images)
        parts = [loss(found, LABELS, miner(found, LABELS)), spread(found, LABELS), 2 * spread(found, LABELS)]
        by_hand = module.head.loss(found, LABELS) + 0.5 * parts[0] + 3 * parts[1] + parts[2]
    assert torch.allclose(total, by_hand, rtol=1e-5)
    assert set(logged) == {"train/loss", "train/TripletMarginLoss", "train/spread", "train/Pull"}
    assert torch.allclose(logged["train/spread"], parts[1], rtol=1e-5)
    assert torch.allclose(logged["train/loss"], total)


def test_two_of_a_class_have_two_names() -> None:
    extra = ExtraLosses([ExtraLoss(losses.SupConLoss(t)) for t in (0.1, 0.2)], D, C)
    assert list(extra(embeddings(), LABELS)) == ["SupConLoss", "SupConLoss_2"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_computed_in_float32_whatever_the_precision(dtype: torch.dtype) -> None:
    seen = []

    def watched(embeddings: Tensor, labels: Tensor) -> Tensor:
        seen.append((embeddings.dtype, (embeddings @ embeddings.T).dtype, labels.dtype))
        return embeddings.square().mean()

    extra = ExtraLosses([ExtraLoss(watched), ExtraLoss(losses.ProxyAnchorLoss(C, D))], D, C)
    extra.to(dtype)
    assert {weight.dtype for weight in extra.parameters()} == {torch.float32}
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        values = extra(embeddings().to(dtype), LABELS.int())
    assert seen == [(torch.float32, torch.float32, torch.int64)]
    assert all(value.dtype == torch.float32 for value in values.values())
    assert {weight.dtype for weight in extra.double().parameters()} == {torch.float64}


def test_float64_stays_float64() -> None:
    extra = ExtraLosses([ExtraLoss(spread)], D, C)
    assert extra(embeddings().double(), LABELS)["spread"].dtype == torch.float64


def test_what_a_loss_draws_is_a_function_of_torchs_generator_and_leaves_the_others_as_they_were() -> None:
    import random

    extra = ExtraLosses([ExtraLoss(Random())], D, C)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        np.random.seed(len(drawn))  # noqa: NPY002
        random.seed(len(drawn))
        states = str(np.random.get_state()), random.getstate()  # noqa: NPY002
        drawn.append(extra(embeddings(), LABELS)["Random"].item())
        assert states == (str(np.random.get_state()), random.getstate())  # noqa: NPY002
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_module_without_them_draws_nothing_and_has_no_further_weights() -> None:
    torch.manual_seed(0)
    plain = ArcFaceModule(FastCNN(D, width=4), ArcFaceHead(D, C))
    after = torch.get_rng_state()
    with_losses = made([ExtraLoss(losses.SupConLoss())])
    assert torch.equal(after, torch.get_rng_state())
    assert list(plain.state_dict()) == list(with_losses.state_dict())
    assert all(torch.equal(one, with_losses.state_dict()[name]) for name, one in plain.state_dict().items())


SIZED = {"num_classes": C, "embedding_size": D}
LOSSES: dict[str, dict[str, Any]] = {
    "AngularLoss": {"alpha": 30},
    "ArcFaceLoss": {**SIZED, "margin": 20, "scale": 16},
    "CircleLoss": {"m": 0.3, "gamma": 64},
    "ContrastiveLoss": {"pos_margin": 0.1, "neg_margin": 0.8},
    "CosFaceLoss": {**SIZED, "margin": 0.2, "scale": 16},
    "DynamicSoftMarginLoss": {"num_bins": 8, "momentum": 0.1},
    "FastAPLoss": {"num_bins": 7},
    "GeneralizedLiftedStructureLoss": {"neg_margin": 0.5, "pos_margin": 0.1},
    "HistogramLoss": {"delta": 0.25},
    "InstanceLoss": {"gamma": 16},
    "IntraPairVarianceLoss": {"pos_eps": 0.02, "neg_eps": 0.03},
    "LargeMarginSoftmaxLoss": {**SIZED, "margin": 3, "scale": 2},
    "LiftedStructureLoss": {"neg_margin": 0.5, "pos_margin": 0.1},
    "MarginLoss": {"margin": 0.1, "nu": 0.1, "beta": 1.1, "triplets_per_anchor": 3},
    "MultiSimilarityLoss": {"alpha": 1, "beta": 40, "base": 0.4},
    "NCALoss": {"softmax_scale": 2},
    "NPairsLoss": {},
    "NTXentLoss": {"temperature": 0.2},
    "NormalizedSoftmaxLoss": {**SIZED, "temperature": 0.1},
    "P2SGradLoss": {"descriptors_dim": D, "num_classes": C},
    "PNPLoss": {"b": 3, "alpha": 2, "anneal": 0.02, "variant": "Ds"},
    "ProxyAnchorLoss": {**SIZED, "margin": 0.2, "alpha": 16},
    "ProxyNCALoss": {**SIZED, "softmax_scale": 2},
    "RankedListLoss": {"margin": 0.3, "Tn": 1.0, "imbalance": 0.4, "alpha": 1.3, "Tp": 1.0},
    "SignalToNoiseRatioContrastiveLoss": {"pos_margin": 0.1, "neg_margin": 0.8},
    "SmoothAPLoss": {"temperature": 0.02},
    "SoftTripleLoss": {**SIZED, "centers_per_class": 3, "la": 10, "gamma": 0.3, "margin": 0.02},
    "SphereFaceLoss": {**SIZED, "margin": 3, "scale": 2},
    "SubCenterArcFaceLoss": {**SIZED, "margin": 20, "scale": 16, "sub_centers": 2},
    "SupConLoss": {"temperature": 0.2},
    "ThresholdConsistentMarginLoss": {"lambda_plus": 0.5, "lambda_minus": 2.0, "margin_plus": 0.8, "margin_minus": 0.4},
    "TripletMarginLoss": {"margin": 0.1, "swap": True, "smooth_loss": True, "triplets_per_anchor": 2},
    "TupletMarginLoss": {"margin": 5.0, "scale": 32},
}
"""Every loss that takes embeddings and labels, with arguments that are not its own defaults."""
UNUSABLE = {"BaseLossWrapper", "BaseMetricLossFunction", "GenericPairLoss", "ManifoldLoss", "SelfSupervisedLoss"}
UNUSABLE |= {"VICRegLoss"}
MINERS: dict[str, dict[str, Any]] = {
    "AngularMiner": {"angle": 30},
    "BatchEasyHardMiner": {"pos_strategy": "hard", "neg_strategy": "easy", "allowed_neg_range": (0.1, 1.5)},
    "BatchHardMiner": {},
    "DistanceWeightedMiner": {"cutoff": 0.4, "nonzero_loss_cutoff": 1.3},
    "HDCMiner": {"filter_percentage": 0.4},
    "MultiSimilarityMiner": {"epsilon": 0.2, "distance": distances.LpDistance(p=1)},
    "PairMarginMiner": {"pos_margin": 0.1, "neg_margin": 0.7},
    "TripletMarginMiner": {"margin": 0.1, "type_of_triplets": "hard"},
    "UniformHistogramMiner": {"num_bins": 50, "pos_per_bin": 5, "neg_per_bin": 5},
}


TRIPLETS = partial(losses.TripletMarginLoss, margin=0.3)
MEMORY = partial(losses.CrossBatchMemory, embedding_size=D, memory_size=16)
FURTHER: dict[str, Callable[[], Any]] = {
    "bins": lambda: losses.HistogramLoss(n_bins=7),
    "learned": lambda: losses.MarginLoss(learn_beta=True, num_classes=C),
    "reducer": lambda: TRIPLETS(reducer=reducers.AvgNonZeroReducer()),
    "reducers": lambda: TRIPLETS(reducer=reducers.MultipleReducers({"loss": reducers.ThresholdReducer(high=0.5)})),
    "power": lambda: TRIPLETS(distance=distances.LpDistance(p=1, power=2, normalize_embeddings=False)),
    "cosine": lambda: losses.ContrastiveLoss(pos_margin=1, neg_margin=0, distance=distances.CosineSimilarity()),
    "noise": lambda: losses.ContrastiveLoss(distance=distances.SNRDistance(power=2), reducer=reducers.SumReducer()),
    "regularizer": lambda: TRIPLETS(
        embedding_regularizer=regularizers.LpRegularizer(p=3, reducer=reducers.ThresholdReducer(low=0.1))
    ),
    "memory": lambda: MEMORY(losses.AngularLoss(30), miner=miners.AngularMiner(30)),
    "list": lambda: losses.MultipleLosses([losses.SupConLoss(0.2), TRIPLETS()], [None, miners.AngularMiner(30)]),
    "dict": lambda: losses.MultipleLosses({"a": losses.SupConLoss(0.2), "b": TRIPLETS()}, weights={"a": 0.2, "b": 3}),
    **{
        name: partial(
            lambda name: losses.SoftTripleLoss(**SIZED, weight_regularizer=getattr(regularizers, name)()), name
        )
        for name in ("CenterInvariantRegularizer", "RegularFaceRegularizer", "ZeroMeanRegularizer")
    },
}
EVERY: dict[str, Callable[[], ExtraLoss]] = {
    **{
        name: lambda n=name: ExtraLoss(getattr(losses, n)(**LOSSES[n]), 0.5) for name in LOSSES if hasattr(losses, name)
    },  # type: ignore[misc]
    **{name: lambda n=name: ExtraLoss(TRIPLETS(), 2.0, getattr(miners, n)(**MINERS[n])) for name in MINERS},  # type: ignore[misc]
    **{name: lambda n=name: ExtraLoss(FURTHER[n]()) for name in FURTHER},  # type: ignore[misc]
}


@pytest.mark.skipif(not pytorch_metric_learning.__version__.startswith("2.9"), reason="later ones may have more")
def test_every_loss_and_miner_of_the_library_is_tried() -> None:
    for module, tried in ((losses, {*LOSSES, *UNUSABLE, "CrossBatchMemory", "MultipleLosses"}), (miners, {*MINERS})):
        classes = {name for name, each in vars(module).items() if isinstance(each, type) and "Mixin" not in name}
        assert classes - {"BaseMiner", "BaseTupleMiner", "EmbeddingsAlreadyPackagedAsTriplets"} <= tried


@pytest.mark.filterwarnings("ignore:__array_wrap__", "ignore:Using a non-tuple sequence")  # about the library
@pytest.mark.parametrize("name", EVERY)
def test_a_loss_rebuilt_from_its_spec_has_the_same_values(name: str) -> None:
    extra = ExtraLosses([EVERY[name]()], D, C)
    specs = restorable(extra, SIZED)
    assert specs is not None
    again = ExtraLosses(build_losses(json.loads(json.dumps(specs)), extra.state_dict()), D, C)
    again.load_state_dict(extra.state_dict())
    assert again.described() == extra.described()
    for seed in range(2):
        values = []
        for each in (extra, again):
            torch.manual_seed(seed)
            values.append(each.total(each(embeddings(seed), LABELS)))
        assert torch.equal(*values)


@pytest.mark.parametrize(
    "loss",
    [
        losses.TripletMarginLoss(reducer=reducers.ClassWeightedReducer(torch.arange(1.0, 11.0))),
        losses.CircleLoss(reducer=reducers.PerAnchorReducer(aggregation_func=lambda x, num_per_row: x.sum(1))),
        losses.SoftTripleLoss(
            **SIZED, centers_per_class=3, weight_regularizer=regularizers.SparseCentersRegularizer(C, 3)
        ),
    ],
    ids=["weights", "a function", "sizes that are not kept"],
)
def test_a_loss_that_cannot_be_described_has_no_spec_rather_than_a_wrong_one(loss: Any) -> None:
    assert restorable(ExtraLosses([ExtraLoss(loss)], D, C), SIZED) is None


def test_nested_arguments_are_compared_on_resume_and_parameters_are_not() -> None:
    def described(loss: Any) -> dict[str, Any]:
        return ExtraLosses([ExtraLoss(loss)], D, C).described()

    def both(temperature: float, weight: float = 0.2) -> Any:
        return losses.MultipleLosses([losses.SupConLoss(temperature), losses.CircleLoss()], weights=[weight, 1])

    assert described(both(0.1)) == described(both(0.1))
    assert described(both(0.1)) != described(both(0.2))
    assert described(both(0.1)) != described(both(0.1, 0.3))
    learned = losses.MarginLoss(learn_beta=True)
    before = described(learned)
    with torch.no_grad():
        learned.beta.add_(1)
    assert described(learned) == before


def test_specs_build_nothing_but_pytorch_metric_learning_and_allocate_no_more_than_the_file_has() -> None:
    for name in ("Linear", "Popen", "os.system", None, "losses"):
        with pytest.raises(ValueError, match="expected a class of pytorch_metric_learning"):
            build_losses([{"name": name, "kwargs": {}, "weight": 1.0, "miner": None}], {})
    huge = {"name": "ProxyAnchorLoss", "kwargs": {"num_classes": 10**9, "embedding_size": 512}, "weight": 1.0}
    with pytest.raises(ValueError, match="expected the sizes of its weights"):
        build_losses([huge], {})


class Scalarless(nn.Module):
    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return embeddings.square()


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (lambda: ExtraLoss(losses.ProxyAnchorLoss(3, D)), "got 'ProxyAnchorLoss'; expected a loss .* 10 classes"),
        (lambda: ExtraLoss(nn.TripletMarginLoss()), "got 'TripletMarginLoss'; .* missing 1 required"),
        (lambda: ExtraLoss(losses.SelfSupervisedLoss(losses.NTXentLoss())), "got 'SelfSupervisedLoss'"),
        (lambda: ExtraLoss(Scalarless()), r"returns a scalar, not a tensor of shape \(4, 8\)"),
        (lambda: ExtraLoss(lambda e, y: 0.5), "returns a scalar, not float"),
        (lambda: ExtraLoss(lambda e, y: e.detach().mean()), "has a gradient"),
        (lambda: ExtraLoss(losses.SupConLoss), "loss: got 'SupConLoss'; expected an object"),
        (lambda: ExtraLoss(losses.SupConLoss(), -1.0), r"weight: got -1.0; expected a number in \(0, inf\)"),
        (lambda: ExtraLoss(losses.SupConLoss(), 1.0, "hard"), "miner: got 'hard'"),
        (
            lambda: ExtraLoss(DistributedLossWrapper(losses.SupConLoss())),
            "loss: .* the loss that it wraps",
        ),
        (
            lambda: ExtraLoss(spread, miner=DistributedMinerWrapper(miners.HDCMiner())),
            "miner: .* the miner that it wraps",
        ),
    ],
)
def test_what_cannot_be_a_loss_is_refused_before_any_work(extra: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        made([extra()])


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    calls = []

    def breaks(embeddings: Tensor, labels: Tensor) -> Tensor:
        calls.append(0)
        return embeddings.mean() / (0 if len(calls) > 3 else 1)

    with pytest.raises(NonFiniteError):
        fit(tmp_path, made(ExtraLoss(breaks)))


class Whole:
    """Extra losses with parameters, a memory, drawn triplets and a miner."""

    def __call__(self) -> list[ExtraLoss]:
        torch.manual_seed(1)
        return [
            ExtraLoss(losses.ProxyAnchorLoss(C, D), 0.1),
            ExtraLoss(losses.CrossBatchMemory(losses.NTXentLoss(), D, memory_size=128), 0.2),
            ExtraLoss(losses.TripletMarginLoss(triplets_per_anchor=2), 0.3),
            ExtraLoss(losses.TripletMarginLoss(), 0.3, miners.DistanceWeightedMiner()),
        ]


def test_parameters_are_trained_at_the_heads_rate_and_a_resumed_run_is_exact(tmp_path: Path) -> None:
    whole = made(Whole()(), head_lr=0.5)
    before = whole.extra_losses.losses["ProxyAnchorLoss"].proxies.detach().clone()  # type: ignore[union-attr]
    trainer = fit(tmp_path, whole, 2)
    groups = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert groups == {"backbone": 0.1, "head": 0.5, "extra_losses": 0.5}
    assert not torch.equal(before, whole.state_dict()["extra_losses.losses.ProxyAnchorLoss.proxies"])

    fit(tmp_path, made(Whole()(), head_lr=0.5)).save_checkpoint(tmp_path / "one.ckpt")
    resumed = made(Whole()(), head_lr=0.5)
    fit(tmp_path, resumed, 2, tmp_path / "one.ckpt")
    memory: Any = resumed.extra_losses.losses["CrossBatchMemory"]  # type: ignore[union-attr]
    assert memory.queue_idx == whole.extra_losses.losses["CrossBatchMemory"].queue_idx != 0  # type: ignore[union-attr]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name

    loaded = ArcFaceModule.load_from_checkpoint(tmp_path / "one.ckpt")
    assert loaded.extra_losses is not None
    assert loaded.extra_losses.described() == resumed.extra_losses.described()  # type: ignore[union-attr]
    fit(tmp_path, loaded.train(), 2, tmp_path / "one.ckpt")  # it is resumed without naming the losses again


def test_other_losses_are_refused_on_resume(tmp_path: Path) -> None:
    fit(tmp_path, made([ExtraLoss(losses.SupConLoss(0.1), 0.5)])).save_checkpoint(tmp_path / "one.ckpt")
    place = r"model.extra_losses.SupConLoss.loss.temperature: the checkpoint has 0.1, this run 0.2"
    for extra, line in (
        (ExtraLoss(losses.SupConLoss(0.2), 0.5), place),
        (ExtraLoss(losses.SupConLoss(0.1), 0.6), "weight: the checkpoint has 0.5, this run 0.6"),
        (ExtraLoss(losses.SupConLoss(0.1), 0.5, miners.BatchHardMiner()), "miner"),
        (ExtraLoss(Pull()), "SupConLoss.loss.name: the checkpoint has 'SupConLoss', this run None"),
        (None, "SupConLoss.weight: the checkpoint has 0.5, this run None"),
    ):
        with pytest.raises(CheckpointError, match=line):
            fit(tmp_path, made(extra), 2, tmp_path / "one.ckpt")


def test_a_trained_module_does_without_losses_that_cannot_be_rebuilt(tmp_path: Path) -> None:
    class Own(losses.ProxyAnchorLoss):
        pass

    trainer = fit(tmp_path, module := made([ExtraLoss(Own(C, D))]))
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    with pytest.warns(UserWarning, match="extra_losses cannot be restored"):
        loaded = ArcFaceModule.load_from_checkpoint(tmp_path / "own.ckpt")
    assert loaded.extra_losses is None
    images = torch.randn(4, 1, 28, 28)
    assert torch.equal(loaded(images), module.eval()(images))
    again = ArcFaceModule.load_from_checkpoint(tmp_path / "own.ckpt", extra_losses=[ExtraLoss(Own(C, D))])
    assert torch.equal(
        again.state_dict()["extra_losses.losses.Own.proxies"], module.state_dict()["extra_losses.losses.Own.proxies"]
    )
    plain = made(None)
    L.Trainer(**QUIET).test(plain, datamodule=MNISTDataModule(dataset="digits"), ckpt_path=tmp_path / "own.ckpt",
                            weights_only=True, verbose=False)  # fmt: skip
    assert torch.equal(plain.eval()(images), module(images))


def test_averaged_weights_and_accumulation_go_with_them(tmp_path: Path) -> None:
    fit(tmp_path, made(Whole()()), accumulate_grad_batches=2, callbacks=[ExponentialMovingAverage(0.9)])
