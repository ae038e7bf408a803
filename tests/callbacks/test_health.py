"""Each thing that `HealthCheck` speaks of is produced in a small training run; a healthy run says nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import QUIET
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from arcface_pl import ArcFaceModule, SimpleCNN
from arcface_pl.callbacks import HealthCheck, RunLogger
from arcface_pl.callbacks.run.health import LABELS_AT_ONCE, _guess
from arcface_pl.cli import main
from arcface_pl.heads import HEADS, ArcFaceHead
from arcface_pl.seeding import derive_seed

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # tensors in memory need none
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),  # most need no validation
]

CLASSES = 4


def patterns(count: int, seed: int, *, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Images that are easily told apart: each class lights one half, or one quarter, of a noisy square."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "patterns"))
    labels = torch.arange(count) % classes
    images = 0.3 * torch.rand(count, 1, 8, 8, generator=generator)
    for label in range(classes):
        row, column = 4 * (label // 2), 4 * (label % 2)
        images[labels == label, :, row : row + 4, column : column + 4] += 0.7
    return images, labels


def noise(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images without any content, under labels that have nothing to do with them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 8, 8, generator=generator), torch.randint(CLASSES, (count,), generator=generator)


def loader(images: Tensor, labels: Tensor, batch_size: int = 32) -> DataLoader:
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


class Recorder(HealthCheck):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: dict[str, str] = {}
        self.order: list[str] = []

    def _say(self, trainer: L.Trainer, pl_module: L.LightningModule, name: str, message: str) -> None:
        if name not in self._said:
            self.messages[name] = message
            self.order.append(name)
        super()._say(trainer, pl_module, name, message)


def train(
    train_data: tuple[Tensor, Tensor],
    val_data: tuple[Tensor, Tensor] | None = None,
    *,
    head: Any = None,
    lr: float = 3e-3,
    backbone: nn.Module | None = None,
    optimizer: Any = None,
    check: HealthCheck | None = None,
    epochs: int = 3,
    **flags: Any,
) -> dict[str, str]:
    """Train and return what was said, by its subject."""
    torch.manual_seed(0)
    module = ArcFaceModule(
        backbone or SimpleCNN(16, image_size=8),
        head or ArcFaceHead(16, CLASSES),
        optimizer or (lambda params: torch.optim.Adam(params, lr)),
    )
    check = check or Recorder()
    settings = {**QUIET, "max_epochs": epochs, "log_every_n_steps": 2, **flags}
    trainer = L.Trainer(**settings, callbacks=[check])
    trainer.fit(module, loader(*train_data), None if val_data is None else loader(*val_data))
    assert not module.backbone._forward_hooks
    return check.messages if isinstance(check, Recorder) else {}


@pytest.mark.parametrize("head", HEADS)
def test_a_healthy_run_says_nothing(head: str) -> None:
    assert train(patterns(640, 1), patterns(80, 2), head=HEADS[head](16, CLASSES), epochs=4) == {}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_embeddings_opposite_to_their_class_name_the_extension() -> None:
    """The original loop's loss on noise: theta = pi is a minimum."""
    head = ArcFaceHead(16, CLASSES, extension="none")
    said = train(noise(3200, 1), noise(400, 2), head=head, epochs=4)
    assert "--model.head.extension monotone" in said["angles"]
    degrees = float(said["angles"].split(" degrees")[0].split()[-1])
    assert 135 < degrees <= 180


def test_labels_that_fit_nothing_are_no_better_than_guessing() -> None:
    said = train(noise(640, 1), noise(400, 2))
    assert "no better than guessing (25.00% by always predicting the most frequent class)" in said["accuracy"]
    # One image tells nothing: three standard deviations above guessing are past 100%
    assert "accuracy" not in train(noise(640, 1), noise(1, 2))


def test_a_loss_that_does_not_fall_names_scale_and_level() -> None:
    # As near to standing still as a rate above zero comes.
    said = train(noise(640, 1), head=ArcFaceHead(16, CLASSES, scale=64.0), lr=1e-12)
    # log(3) + 64 sin(0.5)
    assert "an untrained network has 31.8 (all angles at 90 degrees, scale 64)" in said["loss"]


def test_a_rate_of_a_hundred_explodes() -> None:
    said = train(patterns(320, 1), patterns(80, 2), lr=100.0)
    assert "norms" in said
    assert "the network's weights explode" in said["norms"]
    assert "lower learning rate" in said["norms"]


class Shrinking(SimpleCNN):
    """Embeddings a millionth of their length."""

    def forward(self, images: Tensor) -> Tensor:
        return 1e-6 * super().forward(images)


def test_embeddings_without_length_are_named() -> None:
    said = train(patterns(320, 1), backbone=Shrinking(16, image_size=8), lr=1e-6)
    assert "hardly a direction is left" in said["norms"]


def test_constant_images_collapse() -> None:
    images, labels = patterns(320, 1)
    said = train((torch.ones_like(images), labels))
    assert "mean cosine 1.0000" in said["collapse"]


def test_a_batch_of_one_class_is_no_collapse() -> None:
    images, labels = patterns(320, 1)
    order = labels.argsort(stable=True)[: 32 * (80 // 32)]
    assert "collapse" not in train((torch.ones_like(images[order]), labels[order]), epochs=6)


def test_a_class_that_never_appears_is_named_after_one_epoch() -> None:
    images, labels = patterns(320, 1)
    kept = (labels != 1) & (labels != 3)
    said = train((images[kept], labels[kept]))
    assert said["classes"].startswith("2 of 4 classes had no image in a whole epoch: 1, 3.")
    # An epoch that was cut short proves nothing.
    for limit in (3, 1):  # 1 equals 1.0, which is all of them
        assert train((images[kept], labels[kept]), limit_train_batches=limit) == {}
    assert "classes" not in train((images[kept], labels[kept]), fast_dev_run=True)
    assert "classes" not in train((images[kept], labels[kept]), overfit_batches=1)
    assert "classes" not in train((images[kept], labels[kept]), max_steps=3)


@pytest.mark.parametrize("batches", [LABELS_AT_ONCE - 1, LABELS_AT_ONCE, 2 * LABELS_AT_ONCE + 1])
@pytest.mark.parametrize("place", [0, -1])
def test_a_class_of_one_batch_counts_wherever_in_the_epoch_that_is(batches: int, place: int) -> None:
    images, _ = patterns(2 * batches, 1)
    labels = torch.tensor([0, 2]).repeat(batches)
    labels[2 * place % len(labels)] = 1
    module = ArcFaceModule(SimpleCNN(16, image_size=8), ArcFaceHead(16, CLASSES))
    check = Recorder()
    L.Trainer(**{**QUIET, "max_epochs": 1}, callbacks=[check]).fit(module, loader(images, labels, batch_size=2))
    assert check.messages["classes"].startswith("1 of 4 classes had no image in a whole epoch: 3.")


def test_a_few_batches_are_not_said_to_be_no_better_than_guessing() -> None:
    blank = torch.zeros(320, 1, 8, 8), patterns(320, 1)[1]
    assert "accuracy" in train(blank, blank)
    assert "accuracy" not in train(blank, blank, epochs=2, limit_train_batches=1)
    assert "accuracy" not in train(blank, blank, fast_dev_run=True)


def test_a_rate_of_zero_names_whose() -> None:
    def frozen(groups: Any) -> torch.optim.Optimizer:
        backbone, head = groups
        return torch.optim.SGD([{**backbone, "lr": 0.0}, head], lr=0.1)

    said = train(patterns(320, 1), optimizer=frozen)
    assert said["learning_rate"].startswith("the learning rate of backbone is 0,")
    none = train(patterns(320, 1), optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0))
    assert none["learning_rate"].startswith("the learning rate of backbone and head is 0,")


def test_gradient_accumulation_does_not_hide_a_stuck_loss() -> None:
    said = train(noise(640, 1), lr=1e-12, accumulate_grad_batches=2, log_every_n_steps=1)
    assert "loss" in said


def test_each_thing_is_said_once_on_the_console_and_in_tensorboard(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    images, labels = patterns(320, 1)
    logger = RunLogger(str(tmp_path), log_graph=False)
    check = Recorder()
    train((torch.ones_like(images), labels), patterns(400, 2), check=check, logger=logger, epochs=4)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("health check, step ")]
    assert len(printed) == len(check.messages) == len(check.order)
    (file,) = (tmp_path / "lightning_logs" / "version_0").glob("events.*")
    tensors = EventAccumulator(str(file)).Reload()
    for name, line in zip(check.order, printed, strict=True):
        step, message = line.removeprefix("health check, step ").split(": ", 1)
        (event,) = tensors.Tensors(f"health/{name}/text_summary")
        assert event.tensor_proto.string_val[0].decode() == message == check.messages[name]
        assert event.step == int(step)


def test_it_changes_nothing_and_reads_only_the_steps_that_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, read = [], []
    for check in (HealthCheck(), L.Callback()):
        torch.manual_seed(0)
        head = HEADS["AdaFaceHead"](16, CLASSES)  # gathers statistics in training
        module = ArcFaceModule(SimpleCNN(16, image_size=8), head)
        if isinstance(check, HealthCheck):
            original = check._read_step
            monkeypatch.setattr(
                check, "_read_step", lambda *args, o=original: (read.append(args[0].global_step), o(*args))
            )
        trainer = L.Trainer(**{**QUIET, "log_every_n_steps": 3}, max_epochs=2, callbacks=[check])
        trainer.fit(module, loader(*patterns(160, 1)))
        weights.append({name: value.clone() for name, value in module.state_dict().items()})
    assert read == [3, 6, 9]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


class Failing(SimpleCNN):
    """Fails at the second step."""

    count = 0

    def forward(self, images: Tensor) -> Tensor:
        self.count += 1
        if self.count == 2:
            raise RuntimeError("on purpose")
        return super().forward(images)


def test_a_step_that_fails_leaves_no_hook_behind() -> None:
    backbone = Failing(16, image_size=8)
    with pytest.raises(RuntimeError, match="on purpose"):
        train(patterns(320, 1), backbone=backbone)
    assert not backbone._forward_hooks


@pytest.mark.slow
def test_a_default_run_on_digits_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main(["fit", "--data.dataset", "digits", "--enable_progress_bar", "false", "--default_root_dir", str(tmp_path)])
    assert "health check" not in capsys.readouterr().out


@pytest.mark.parametrize(("counts", "expected"), [([10, 30, 10], 0.6), (None, 0.25)])
def test_guessing_names_the_commonest_class(counts: list[int] | None, expected: float) -> None:
    assert _guess(SimpleNamespace(class_counts=counts), 4) == expected
