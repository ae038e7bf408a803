"""Initial class centers: their distributions, drawn whole or later, and what a first step does to them."""

import math
from pathlib import Path

import lightning as L
import pytest
import torch
from tiny_runs import QUIET

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, LinearHead, MNISTDataModule
from arcface_pl.heads import deferred_centers, shard_head
from arcface_pl.heads.centers import CENTER_INITS

every_init = pytest.mark.parametrize("init", CENTER_INITS)


def seeded(init: str, classes: int = 1000, dim: int = 16) -> ArcFaceHead:
    torch.manual_seed(0)
    return ArcFaceHead(dim, classes, scale=64.0, center_init=init)  # type: ignore[arg-type]


def test_normal_centers_have_a_standard_deviation_of_a_hundredth() -> None:
    weight = seeded("normal", 20_000).weight.detach().double()
    assert weight.mean().item() == pytest.approx(0, abs=5 * 0.01 / math.sqrt(weight.numel()))
    assert weight.std().item() == pytest.approx(0.01, rel=5 / math.sqrt(2 * weight.numel()))
    assert (weight / 0.01).pow(4).mean().item() == pytest.approx(3, abs=5 * math.sqrt(96 / weight.numel()))


def test_unit_centers_have_length_one_and_no_preferred_direction() -> None:
    weight = seeded("unit", 20_000).weight.detach().double()
    assert torch.allclose(weight.norm(dim=1), torch.ones(20_000, dtype=torch.float64), atol=1e-6)
    assert weight.mean(0).abs().max() < 5 / math.sqrt(16 * 20_000)
    covariance = weight.T @ weight / len(weight)
    assert torch.allclose(covariance, torch.eye(16, dtype=torch.float64) / 16, atol=5 / (16 * math.sqrt(20_000)))


@every_init
def test_centers_are_the_same_drawn_whole_or_later(init: str) -> None:
    for classes, dim in ((11, 8), (3001, 1000)):  # the second draws several blocks
        whole = seeded(init, classes, dim)
        after = torch.rand(3)
        with deferred_centers():
            later = seeded(init, classes, dim)
        assert torch.equal(torch.rand(3), after)
        some = later.postponed.take(slice(classes // 2, classes), torch.float32)  # type: ignore[union-attr]
        assert torch.equal(some, whole.weight[classes // 2 :])
        assert torch.equal(shard_head(later).weight, whole.weight)


@every_init
def test_a_head_without_memory_takes_nothing_from_the_generator(init: str) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with torch.device("meta"):
        assert ArcFaceHead(16, 1000, center_init=init).weight.is_meta  # type: ignore[arg-type]
    assert torch.equal(state, torch.get_rng_state())


def turned(init: str, classes: int, dim: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Lengths of a batch's target centers, and tangents of the angles that a step at a rate of 0.1 turns them by."""
    head = seeded(init, classes, dim)
    labels = torch.arange(128)
    embeddings = torch.randn(128, dim, generator=torch.Generator().manual_seed(1))
    head.loss(embeddings, labels).backward()
    before, grad = head.weight.detach()[labels].double(), head.weight.grad[labels].double()  # type: ignore[index]
    after = before - 0.1 * grad
    return before.norm(dim=1), torch.cosine_similarity(before, after).acos().tan()


def test_how_far_a_first_step_turns_centers_depends_on_their_length_alone() -> None:
    lengths, tangents = {}, {}
    for init in CENTER_INITS:
        for classes in (1000, 20_000):
            lengths[init, classes], tangents[init, classes] = turned(init, classes)
    # The gradient is tangential and inverse to the length: tan(turn) = rate * scale / batch * sin(theta + m) / length^2
    for key, tangent in tangents.items():
        found = (tangent * lengths[key].square()).mean().item()
        # theta is near 90 degrees; with 1,000 classes the other samples' shares of the softmax add some percent
        assert found == pytest.approx(0.1 * 64 / 128 * math.cos(0.5), rel=0.1), key
    degrees = {key: tangent.atan().rad2deg().mean().item() for key, tangent in tangents.items()}
    assert degrees["unit", 1000] == pytest.approx(degrees["unit", 20_000], rel=0.05)
    assert degrees["normal", 1000] == pytest.approx(degrees["normal", 20_000], rel=0.05)
    longer = tangents["xavier", 20_000].mean() / tangents["xavier", 1000].mean()
    assert longer.item() == pytest.approx((20_000 + 64) / (1000 + 64), rel=0.1)  # Xavier's length^2 is 2 D / (C + D)


def test_it_is_a_setting_of_every_head_that_is_saved_and_refused_on_resume(tmp_path: Path) -> None:
    assert LinearHead(8, 5, center_init="unit").weight.norm(dim=1).allclose(torch.ones(5))
    with pytest.raises(ValueError, match="center_init: got 'kaiming'; expected one of 'xavier', 'normal', 'unit'"):
        ArcFaceHead(8, 5, center_init="kaiming")  # type: ignore[arg-type]

    def fit(init: str, checkpoint: Path | None = None) -> L.Trainer:
        module = ArcFaceModule(FastCNN(8, width=4), ArcFaceHead(8, 10, center_init=init))  # type: ignore[arg-type]
        trainer = L.Trainer(**QUIET, max_epochs=2 if checkpoint else 1, limit_train_batches=1, limit_val_batches=0)
        trainer.fit(module, datamodule=MNISTDataModule(dataset="digits"), ckpt_path=checkpoint, weights_only=True)
        return trainer

    fit("unit").save_checkpoint(tmp_path / "unit.ckpt")
    assert ArcFaceModule.load_from_checkpoint(tmp_path / "unit.ckpt").head.center_init == "unit"
    with pytest.raises(ValueError, match="center_init: the checkpoint has 'unit', this run 'xavier'"):
        fit("xavier", tmp_path / "unit.ckpt")
    # A checkpoint of a release that had no such setting
    content = torch.load(tmp_path / "unit.ckpt", weights_only=True)
    for settings in (content["exact"]["settings"], content["hyper_parameters"]["head"]["kwargs"]):
        settings.pop("model.head.center_init", settings.pop("center_init", None))
    torch.save(content, tmp_path / "old.ckpt")
    fit("xavier", tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match="center_init: the checkpoint has 'xavier', this run 'unit'"):
        fit("unit", tmp_path / "old.ckpt")
