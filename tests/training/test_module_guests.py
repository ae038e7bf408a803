"""Classes of other people: module subclasses, backbones, loaders, overridden steps."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule
from arcface_pl.callbacks import AngleHistograms, HealthCheck, RunCheckpoint, ThresholdCalibration
from arcface_pl.errors import CheckpointError, SettingsError
from arcface_pl.training.schedules import OneCycle

Make = Callable[..., Any]


class Regularized(ArcFaceModule):
    """Adds a loss, has hyperparameters of its own, and builds its own networks."""

    def __init__(self, width: int = 4, weight_decay: float = 0.1, name: str = "guest") -> None:
        super().__init__(FastCNN(16, width=width), ArcFaceHead(16, 4))
        self.save_hyperparameters()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + self.hparams.weight_decay * self.head.weight.square().mean()


class Forwarding(ArcFaceModule):
    """Passes everything on, as strangers' subclasses do."""

    def __init__(self, weight_decay: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters(ignore=["backbone", "head"])


class Plain(nn.Module):
    """A network that knows nothing of this package."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, width))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def saved(trainer: L.Trainer, module: ArcFaceModule, loader: DataLoader, path: Path) -> Path:
    trainer.fit(module, loader, loader)
    trainer.save_checkpoint(path)
    return path


def test_a_subclass_keeps_hyperparameters_of_its_own(make_trainer: Make, tiny_loader: Make, tmp_path: Path) -> None:
    module = Regularized(weight_decay=0.3, width=8)
    path = saved(make_trainer(max_epochs=1), module, tiny_loader(), tmp_path / "a.ckpt")
    loaded = Regularized.load_from_checkpoint(path)
    assert (loaded.hparams.weight_decay, loaded.hparams.width, loaded.hparams.name) == (0.3, 8, "guest")
    assert torch.equal(loaded.head.weight, module.head.weight)
    assert Regularized.load_from_checkpoint(path, weight_decay=0.5).hparams.weight_decay == 0.5
    assert next(Regularized.load_from_checkpoint(path, "meta").parameters()).is_meta
    with pytest.raises(CheckpointError, match="unexpected keyword argument 'nosuch'"):
        Regularized.load_from_checkpoint(path, nosuch=1)
    stored = torch.load(path, weights_only=True)["hyper_parameters"]  # plain values only, or this would raise
    assert stored["backbone"]["name"] == "FastCNN"


def test_a_subclass_that_forwards_keyword_arguments(make_trainer: Make, tiny_loader: Make, tmp_path: Path) -> None:
    make = partial(torch.optim.SGD, lr=0.02, momentum=0.5)
    module = Forwarding(
        0.3, backbone=FastCNN(16, width=4), head=ArcFaceHead(16, 4, margin=0.2), optimizer=make, lr_schedule=OneCycle
    )
    path = saved(make_trainer(max_epochs=1), module, tiny_loader(), tmp_path / "a.ckpt")
    loaded = Forwarding.load_from_checkpoint(path)
    assert (loaded.hparams.weight_decay, loaded.head.margin) == (0.3, 0.2)
    optimizer = loaded.optimizer(loaded.parameters())
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.02, 0.5)
    schedule: Any = loaded.lr_schedule(optimizer)  # type: ignore[misc]
    assert isinstance(schedule, OneCycle)
    make_trainer(max_epochs=2).fit(loaded.train(), tiny_loader(), ckpt_path=path, weights_only=True)


def test_what_cannot_be_restored_is_said(
    make_trainer: Make, tiny_loader: Make, tiny_module: Make, tmp_path: Path
) -> None:
    def warm(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)

    module = tiny_module(lr_schedule=warm)
    path = saved(make_trainer(max_epochs=1), module, tiny_loader(), tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="lr_schedule cannot be restored from the file"):
        ArcFaceModule.load_from_checkpoint(path)
    assert ArcFaceModule.load_from_checkpoint(path, lr_schedule=warm).lr_schedule is warm


@pytest.mark.filterwarnings("ignore:Attribute '.*' is an instance of `nn.Module`")  # Lightning's advice to ignore them
def test_modules_among_hyperparameters_become_specs(make_trainer: Make, tiny_loader: Make, tmp_path: Path) -> None:
    class Everything(ArcFaceModule):
        def __init__(self, backbone: Any, head: Any, extra: nn.Module, size: Path = Path("here")) -> None:
            super().__init__(backbone, head)
            self.save_hyperparameters()

    module = Everything(FastCNN(16, width=4), ArcFaceHead(16, 4), nn.Linear(2, 3))
    path = saved(make_trainer(max_epochs=1), module, tiny_loader(), tmp_path / "a.ckpt")
    stored = torch.load(path, weights_only=True)["hyper_parameters"]
    assert stored["extra"]["name"] == "Linear"
    assert stored["extra"]["kwargs"].items() >= {"in_features": 2, "out_features": 3}.items()
    assert stored["size"] == "here"
    assert Everything.load_from_checkpoint(path, extra=nn.Linear(2, 3)).head.num_classes == 4


@pytest.mark.parametrize("width", [16, 12])
def test_any_network_is_a_backbone(make_trainer: Make, tiny_loader: Make, tmp_path: Path, width: int) -> None:
    module = ArcFaceModule(Plain(width), ArcFaceHead(16, 4))
    assert module.example_input_array is None
    if width != 16:  # it does not say its width, so that only the first batch can
        with pytest.raises(ValueError, match=rf"embeddings.shape: got .*{width}.*; expected .*16"):
            make_trainer(max_epochs=1).fit(module, tiny_loader())
        return
    path = saved(make_trainer(max_epochs=1), module, tiny_loader(), tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"backbone: .*'Plain'.* backbone="):
        ArcFaceModule.load_from_checkpoint(path)
    loaded = ArcFaceModule.load_from_checkpoint(path, backbone=Plain(16))
    assert torch.equal(loaded.backbone.layers[1].weight, module.backbone.layers[1].weight)  # type: ignore[index, union-attr]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_inputs_need_not_be_images(make_trainer: Make) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    vectors = torch.eye(3)[labels].repeat(1, 4) + 0.1 * torch.randn(60, 12, generator=generator)
    torch.manual_seed(0)
    module = ArcFaceModule(nn.Linear(12, 8), ArcFaceHead(8, 3), partial(torch.optim.Adam, lr=0.05))
    make_trainer(max_epochs=5).fit(module, DataLoader(TensorDataset(vectors, labels), batch_size=20))
    assert torch.equal(module.head.predict(module(vectors))[0], labels)


def test_weights_that_do_not_fit_are_taken_if_not_strict(make_trainer: Make, tiny_loader: Make, tmp_path: Path) -> None:
    class Larger(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Linear(2, 2)

    path = saved(make_trainer(max_epochs=1), ArcFaceModule(Plain(), ArcFaceHead(16, 4)), tiny_loader(), tmp_path / "a")
    with pytest.raises(CheckpointError, match="backbone.extra"):
        ArcFaceModule.load_from_checkpoint(path, backbone=Larger())
    ArcFaceModule.load_from_checkpoint(path, backbone=Larger(), strict=False)


@pytest.mark.parametrize("form", ["tensor", "images", "list"])
def test_predict_takes_images_alone(make_trainer: Make, tiny_module: Make, tiny_batch: Make, form: str) -> None:
    images, labels = tiny_batch(10)
    data: Any = {
        "tensor": DataLoader(images, 4),  # type: ignore[arg-type]
        "images": DataLoader(TensorDataset(images), 4),
        "list": DataLoader([[images[:4]], [images[4:]]], batch_size=None),  # type: ignore[arg-type]
    }[form]
    module = tiny_module()
    batches = make_trainer().predict(module, data)
    found = torch.cat([batch["predictions"] for batch in batches])
    assert torch.equal(found, module.eval().head(module(images)).argmax(1))
    assert all(set(batch) == {"predictions", "cosine"} for batch in batches)
    (labelled,) = make_trainer().predict(module, DataLoader(TensorDataset(images, labels), 10))
    assert torch.equal(labelled["labels"], labels)


@pytest.mark.parametrize("kind", [tuple, list])
def test_plain_loaders_and_a_trainer_without_our_callbacks(
    make_trainer: Make, tiny_module: Make, tiny_batch: Make, kind: type
) -> None:
    images, labels = tiny_batch()
    batches = [kind((images[at : at + 8], labels[at : at + 8].to(torch.int32))) for at in range(0, 32, 8)]
    loader: Any = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    module = tiny_module()
    before = module.head.weight.detach().clone()
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, loader, loader)
    assert not torch.equal(module.head.weight, before)
    assert "val/accuracy" in trainer.callback_metrics


@pytest.mark.parametrize("bad", [-1, 4])
@pytest.mark.parametrize("entry", ["fit", "validate"])
def test_a_label_out_of_range_is_named_on_the_first_batch_that_has_it(
    make_trainer: Make, tiny_module: Make, tiny_batch: Make, bad: int, entry: str
) -> None:
    images, labels = tiny_batch()
    labels[20] = bad
    data = DataLoader(TensorDataset(images, labels), 8)

    class Unchecked(L.LightningDataModule):
        def train_dataloader(self) -> DataLoader:
            return data

        val_dataloader = train_dataloader

    steps: list[int] = []
    count = L.pytorch.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_: steps.append(1), on_validation_batch_end=lambda *_, **__: steps.append(1)
    )
    for argument in ({"datamodule": Unchecked()}, {}):
        trainer = make_trainer(max_epochs=1, callbacks=[count, HealthCheck()])
        with pytest.raises(ValueError, match=rf"labels: got {bad}; expected .*\[0, 3\]"):
            getattr(trainer, entry)(tiny_module(), *([] if argument else [data]), **argument)
        assert len(steps) == 2
        steps.clear()


class Returning(ArcFaceModule):
    output: Any = None

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.head.loss(self(batch[0]), batch[1])
        self.log("val/loss", loss)
        return {"loss": loss, "none": None, "dict": {"loss": loss}}[self.output]

    def on_validation_epoch_end(self) -> None:
        pass


@pytest.mark.filterwarnings("ignore:.*output of the validation or test step")
@pytest.mark.parametrize("output", ["loss", "none", "dict"])
def test_a_validation_step_may_return_what_it_likes(
    make_trainer: Make, tiny_loader: Make, tmp_path: Path, output: str
) -> None:
    module = Returning(FastCNN(16, width=4), ArcFaceHead(16, 4))
    module.output = output
    callbacks = [
        RunCheckpoint(monitor="val/loss", mode="min"),
        ThresholdCalibration(),
        HealthCheck(),
        AngleHistograms(),
    ]
    trainer = make_trainer(max_epochs=2, callbacks=callbacks, enable_checkpointing=True)
    trainer.fit(module, tiny_loader(), tiny_loader())
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()


LIGHTNING_CLI = """
fit --model.backbone=arcface_pl.backbones.FastCNN --model.backbone.embedding_dim=16 --model.backbone.in_channels=1
--model.backbone.image_size=28 --model.head=arcface_pl.heads.ArcFaceHead --model.head.embedding_dim=16
--model.head.num_classes=10 --model.optimizer=torch.optim.SGD --model.optimizer.lr=0.05
--model.lr_schedule=torch.optim.lr_scheduler.StepLR --model.lr_schedule.step_size=1 --data.dataset=digits
--trainer.max_epochs=1 --trainer.limit_train_batches=2 --trainer.limit_val_batches=1 --trainer.logger=false
--trainer.accelerator=cpu --trainer.enable_progress_bar=false --trainer.enable_checkpointing=false
"""


@pytest.mark.filterwarnings("ignore:.*does not have")
def test_lightnings_own_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hyperparameters name classes and code; the checkpoint must hold neither."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fit.py", *LIGHTNING_CLI.split()])
    cli = LightningCLI(ArcFaceModule, MNISTDataModule, save_config_callback=None, seed_everything_default=0)
    cli.trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = ArcFaceModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert type(loaded.backbone) is FastCNN
    optimizer = loaded.optimizer(loaded.parameters())
    assert optimizer.defaults["lr"] == 0.05
    assert isinstance(loaded.lr_schedule(optimizer), torch.optim.lr_scheduler.StepLR)  # type: ignore[misc]


def test_a_loop_of_ones_own_needs_no_trainer(tiny_module: Make, tiny_loader: Make, tiny_batch: Make) -> None:
    module = tiny_module(lr_schedule=partial(OneCycle, total_steps=8), optimizer=partial(torch.optim.SGD, lr=0.1))
    made: Any = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    rates = []
    for epoch in range(2):
        for index, batch in enumerate(tiny_loader()):
            module.training_step(batch, 4 * epoch + index).backward()
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    assert rates == pytest.approx([0.1 * OneCycle.factor(schedule, step / 8) for step in range(8)])
    module.eval()
    module.setup("validate")
    images, labels = tiny_batch()
    for step in (module.validation_step, module.test_step):
        assert torch.equal(step((images, labels), 0)["predictions"], module.head.predict(module(images))[0])
    assert set(module.predict_step(images, 0)) == {"predictions", "cosine"}
    with pytest.raises(SettingsError, match=r"got 'OneCycle'.*Pass it total_steps"):
        tiny_module(lr_schedule=OneCycle).configure_optimizers()


def test_steps_run_under_fabric(tiny_module: Make, tiny_loader: Make) -> None:
    fabric = L.Fabric(accelerator="cpu", devices=1)
    module = tiny_module()
    before = module.head.weight.detach().clone()
    wrapped, optimizer = fabric.setup(module, module.configure_optimizers())
    for index, batch in enumerate(fabric.setup_dataloaders(tiny_loader())):
        fabric.backward(wrapped.training_step(batch, index))
        optimizer.step()
    assert not torch.equal(module.head.weight, before)


def test_several_loaders_are_scored_as_one(make_trainer: Make, tiny_module: Make, tiny_loader: Make) -> None:
    module, loaders = tiny_module(), [tiny_loader(), tiny_loader(16)]
    trainer = make_trainer(max_epochs=1, callbacks=[ThresholdCalibration(), HealthCheck()])
    trainer.fit(module, tiny_loader(), loaders)
    assert trainer.callback_metrics["val/num_images"] == 48
    (scores,) = trainer.test(module, loaders, verbose=False)[:1]
    (first,), (second,) = (make_trainer().test(module, each, verbose=False) for each in loaders)
    right = sum(each["test/accuracy"] * size for each, size in ((first, 32), (second, 16)))
    assert scores["test/accuracy"] == pytest.approx(right / 48)
    assert [len(batches) for batches in make_trainer().predict(module, loaders)] == [4, 2]


@pytest.mark.parametrize("role", ["backbone", "head"])
def test_what_torch_compile_returns_is_refused(role: str) -> None:
    networks: dict[str, Any] = {"backbone": FastCNN(16, width=4), "head": ArcFaceHead(16, 4)}
    networks[role] = torch.compile(networks[role], backend="eager")
    with pytest.raises(ValueError, match=rf"{role}: got 'OptimizedModule, .*Call {role}\.compile"):
        ArcFaceModule(**networks)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_network_that_is_compiled_in_place_is_saved(make_trainer: Make, tiny_loader: Make, tmp_path: Path) -> None:
    backbone = FastCNN(16, width=4)
    backbone.compile(backend="eager")
    module = ArcFaceModule(backbone, ArcFaceHead(16, 4))
    path = saved(make_trainer(max_epochs=1), module, tiny_loader(), tmp_path / "a.ckpt")
    assert torch.equal(ArcFaceModule.load_from_checkpoint(path).head.weight, module.head.weight)


def test_a_head_of_another_kind_is_named() -> None:
    with pytest.raises(ValueError, match=r"head: got 'Linear'; expected a head of arcface_pl"):
        ArcFaceModule(FastCNN(16, width=4), nn.Linear(16, 4))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:Your `IterableDataset`")
def test_a_run_without_length_names_what_gives_it_one(make_trainer: Make, tiny_module: Make, tiny_batch: Make) -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return zip(*tiny_batch(), strict=True)

    loader = DataLoader(Stream(), batch_size=8)
    with pytest.raises(SettingsError, match="Or set max_steps or max_time, or max_epochs where the training data has"):
        make_trainer(max_epochs=1).fit(tiny_module(lr_schedule=OneCycle), loader)
    make_trainer(max_steps=3, max_epochs=-1).fit(tiny_module(lr_schedule=OneCycle), loader)
