"""Losses beside the head's: values, gradients, precision, parameters of their own, checkpoints, and what is refused."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers
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


def every_loss() -> list[Any]:
    sized = {"num_classes": C, "embedding_size": D}
    return [
        losses.AngularLoss(alpha=30),
        losses.CircleLoss(m=0.3, gamma=64),
        losses.ContrastiveLoss(pos_margin=1, neg_margin=0, distance=distances.CosineSimilarity()),
        losses.CrossBatchMemory(losses.NTXentLoss(0.1), D, memory_size=16, miner=miners.MultiSimilarityMiner()),
        losses.GeneralizedLiftedStructureLoss(neg_margin=0.5),
        losses.LiftedStructureLoss(),
        losses.MarginLoss(margin=0.3),
        losses.MultiSimilarityLoss(alpha=1),
        losses.NTXentLoss(temperature=0.2),
        losses.ProxyAnchorLoss(**sized, margin=0.2),
        losses.SupConLoss(temperature=0.2),
        losses.TripletMarginLoss(margin=0.3, triplets_per_anchor=3, reducer=reducers.MeanReducer()),
        losses.TripletMarginLoss(distance=distances.LpDistance(p=1, power=2), smooth_loss=True),
    ]


@pytest.mark.parametrize("loss", every_loss(), ids=lambda loss: type(loss).__name__)
def test_a_loss_rebuilt_from_its_spec_has_the_same_values(loss: Any) -> None:
    extra = ExtraLosses([ExtraLoss(loss, 0.5, miners.TripletMarginMiner(0.3))], D, C)
    specs = restorable(extra, D)
    if isinstance(loss, losses.AngularLoss):  # it keeps its angle in another unit
        assert specs is None
        return
    assert specs is not None
    again = ExtraLosses(build_losses(specs, extra.state_dict()), D, C)
    again.load_state_dict(extra.state_dict())
    assert again.described() == extra.described()
    for seed in range(2):
        values = []
        for each in (extra, again):
            torch.manual_seed(seed)
            values.append(each.total(each(embeddings(seed), LABELS)))
        assert torch.equal(*values)


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
