from collections.abc import Iterable
from pathlib import Path

import lightning as L
import pytest
import torch
from tiny_runs import QUIET
from torch.utils.data import DataLoader, TensorDataset

from arcface_pl import ArcFaceHead, ArcFaceModule, LinearHead, SimpleCNN
from arcface_pl.backbones import Backbone
from arcface_pl.errors import CheckpointError
from arcface_pl.training.schedules import OneCycle


def make_module(**arguments: object) -> ArcFaceModule:
    torch.manual_seed(0)
    return ArcFaceModule(SimpleCNN(16), ArcFaceHead(16, 4), **arguments)  # type: ignore[arg-type]


def make_batch(size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 1, 28, 28, generator=generator), torch.arange(size) % 4


def make_trainer(folder: Path, **arguments: object) -> L.Trainer:
    return L.Trainer(**{**QUIET, "default_root_dir": folder, **arguments})


def loader(images: torch.Tensor, labels: torch.Tensor, size: int = 8) -> DataLoader:
    return DataLoader(TensorDataset(images, labels), batch_size=size)


def test_one_batch_is_learnt_by_heart(tmp_path: Path) -> None:
    images, labels = make_batch()
    module = make_module(optimizer=lambda params: torch.optim.Adam(params, lr=1e-3))
    trainer = make_trainer(tmp_path, max_epochs=80)
    trainer.fit(module, loader(images, labels, 32))
    module.eval()
    assert (module.head(module(images)).argmax(1) == labels).all()
    assert module.head.loss(module(images), labels) < 0.05


def test_predictions_do_not_see_the_labels() -> None:
    images, labels = make_batch()
    module = make_module().eval()
    with torch.no_grad():
        scores = [module._score("val", (images, order)) for order in (labels, labels.roll(1), 3 - labels)]
    assert all(torch.equal(score["predictions"], scores[0]["predictions"]) for score in scores)
    # The margin's logits do depend on them, which is why an accuracy read off them is none.
    assert not torch.equal(module.head(module(images), labels), module.head(module(images), labels.roll(1)))


def test_logged_scores_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    images, labels = make_batch(30)
    module = make_module()
    trainer = make_trainer(tmp_path)
    (logged,) = trainer.validate(module, loader(images, labels), verbose=False)
    module.eval()
    with torch.no_grad():
        embeddings = module(images)
        unit = torch.nn.functional.normalize(embeddings.double())
        cosine = unit @ torch.nn.functional.normalize(module.head.weight.double()).T
        theta = cosine.acos()
        shifted = torch.where(
            torch.nn.functional.one_hot(labels, 4).bool() & (theta <= torch.pi - 0.5), (theta + 0.5).cos(), cosine
        )
        loss = torch.nn.functional.cross_entropy(30 * shifted, labels)
        own = theta.gather(1, labels[:, None])
    assert logged["val/accuracy"] == pytest.approx((cosine.argmax(1) == labels).double().mean().item())
    assert logged["val/margin_accuracy"] == pytest.approx((shifted.argmax(1) == labels).double().mean().item())
    assert logged["val/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert logged["val/angle/target_mean"] == pytest.approx(torch.rad2deg(own).mean().item(), rel=1e-5)


def test_validation_before_training_changes_nothing(tmp_path: Path) -> None:
    """Trainer.validate leaves tensors of inference mode behind, which fit's validation may not write to."""
    images, labels = make_batch(30)
    scores = []
    for first in (False, True):
        module, trainer = make_module(), make_trainer(tmp_path, max_epochs=1)
        if first:
            trainer.validate(module, loader(images, labels, 30), verbose=False)
        trainer.fit(module, loader(images, labels), loader(images, labels, 10))
        scores.append({name: value.item() for name, value in trainer.callback_metrics.items()})
    assert scores[0] == scores[1]
    assert scores[0]["val/num_images"] == 30


def test_centers_have_a_rate_of_their_own(tmp_path: Path) -> None:
    images, labels = make_batch()
    module = make_module(optimizer=lambda params: torch.optim.SGD(params, lr=0.1), head_lr=0.7, lr_schedule=OneCycle)
    trainer = make_trainer(tmp_path, max_epochs=4)
    trainer.fit(module, loader(images, labels))
    groups = trainer.optimizers[0].param_groups
    assert [group["initial_lr"] for group in groups] == [0.1, 0.7]
    assert {id(weight) for weight in groups[1]["params"]} == {id(weight) for weight in module.head.parameters()}
    assert [group["lr"] for group in groups] == [0.0, 0.0]


@pytest.mark.parametrize("head_lr", [0.0, -1.0, float("inf"), float("nan")])
def test_wrong_head_lr_is_named(head_lr: float) -> None:
    with pytest.raises(ValueError, match="head_lr"):
        make_module(head_lr=head_lr)


def test_head_and_backbone_must_agree() -> None:
    with pytest.raises(ValueError, match="head.embedding_dim: got 8; expected 16, the width of the backbone"):
        ArcFaceModule(SimpleCNN(16), ArcFaceHead(8, 4))


class Dropped(Backbone):
    """A user's own backbone, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding_dim, self.in_channels, self.image_size = 16, 1, 28
        self.linear = torch.nn.Linear(784, 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.nn.functional.dropout(images.flatten(1), 0.5, self.training))


def checkpoint_of(module: ArcFaceModule, folder: Path) -> Path:
    trainer = make_trainer(folder, max_epochs=1)
    trainer.fit(module, loader(*make_batch()))
    path = folder / "model.ckpt"
    trainer.save_checkpoint(path)
    return path


def test_checkpoint_rebuilds_the_packages_own_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = ArcFaceModule(SimpleCNN(16), ArcFaceHead(16, 4, margin=0.25, scale=12.0), channels_last=False)
    loaded = ArcFaceModule.load_from_checkpoint(checkpoint_of(module, tmp_path))
    images, _ = make_batch(3)
    assert (loaded.head.margin, loaded.head.scale, loaded.channels_last) == (0.25, 12.0, False)
    assert not loaded.training
    assert torch.equal(loaded.head(loaded(images)), module.eval().head(module(images)))


def test_users_own_class_is_passed(tmp_path: Path) -> None:
    path = checkpoint_of(ArcFaceModule(Dropped(), LinearHead(16, 4)), tmp_path)
    with pytest.raises(CheckpointError, match=r"backbone: got 'Dropped'; expected one of .* backbone="):
        ArcFaceModule.load_from_checkpoint(path)
    assert isinstance(ArcFaceModule.load_from_checkpoint(path, backbone=Dropped()).backbone, Dropped)


class LossRecorder(L.Callback):
    """Keeps the loss of every step, and can save in mid-epoch."""

    def __init__(self, save_at: int | None = None, path: Path | None = None) -> None:
        self.losses: list[float] = []
        self.save_at, self.path = save_at, path

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: dict, *_: object) -> None:
        self.losses.append(outputs["loss"].item())
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(self.path)


def test_dropout_is_a_function_of_where_the_run_is(tmp_path: Path) -> None:
    def train(epochs: int, recorder: LossRecorder, start: Path | None = None) -> ArcFaceModule:
        torch.manual_seed(3)
        module = ArcFaceModule(Dropped(), ArcFaceHead(16, 4))
        trainer = make_trainer(tmp_path, max_epochs=epochs, callbacks=[recorder])
        torch.rand(len(recorder.losses) + 5)  # what was drawn before must not matter
        trainer.fit(module, loader(*make_batch()), ckpt_path=start, weights_only=True)
        return module

    whole = LossRecorder(save_at=4, path=tmp_path / "epoch.ckpt")
    first = train(3, whole)
    rest = LossRecorder()
    second = train(3, rest, tmp_path / "epoch.ckpt")
    assert rest.losses == whole.losses[4:]
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))


def test_training_steps_skip_the_label_check_and_direct_calls_do_not(tmp_path: Path) -> None:
    seen = []

    class Spy(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
            seen.append(module.head.check_labels)

    class Data(L.LightningDataModule):
        labels_checked = True

        def train_dataloader(self) -> Iterable:
            return loader(*make_batch())

    module = make_module()
    make_trainer(tmp_path, max_epochs=1, callbacks=[Spy()]).fit(module, datamodule=Data())
    assert set(seen) == {False}
    with pytest.raises(ValueError, match="labels"):
        module.head.loss(torch.ones(1, 16), torch.tensor([4]))
