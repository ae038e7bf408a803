"""A teacher beside the head: the loss, its images, what is saved, and what is refused."""

import shlex
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from tiny_runs import QUIET
from torch import Tensor

from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, MNISTDataModule, Recognizer
from arcface_pl.cli import main
from arcface_pl.errors import CheckpointError, UserError
from arcface_pl.preprocessing import Preprocessor, normalize_images
from arcface_pl.recognizer.trained import TrainedModel
from arcface_pl.training.distillation import Distillation, _prepared, _Translation, read_teacher


def made(teacher: Path | None = None, width: int = 8, **arguments: Any) -> ArcFaceModule:
    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=0.01)
    return ArcFaceModule(FastCNN(width, width=4), ArcFaceHead(width, 10), adam, teacher=teacher, **arguments)


def fit(folder: Path, module: ArcFaceModule, epochs: int = 1, checkpoint: Path | None = None, **trainer: Any) -> Any:
    L.seed_everything(0, verbose=False)
    settings = {**QUIET, "max_epochs": epochs, "limit_train_batches": 4, "limit_val_batches": 0, **trainer}
    runner = L.Trainer(**settings, default_root_dir=folder)
    data = MNISTDataModule(dataset="digits", batch_size=32)
    runner.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return runner


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with embeddings of width 8."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.ckpt"
    fit(path.parent, made()).save_checkpoint(path)
    return path


def model(size: int, channels: int, width: int = 8, **style: Any) -> TrainedModel:
    torch.manual_seed(3)
    mean, std = tuple(0.1 * (c + 2) for c in range(channels)), tuple(0.3 + 0.1 * c for c in range(channels))
    backbone = FastCNN(width, width=4, in_channels=channels, image_size=size)
    head = ArcFaceHead(width, 3)
    return TrainedModel(backbone, head, Preprocessor(size, channels, mean, std, **style), ["a", "b", "c"])


def facts(size: int, channels: int, **style: Any) -> dict[str, Any]:
    prepared = Preprocessor(size, channels, (0.4,) * channels, (0.2,) * channels, **style)
    return {"preprocessing": prepared.to_dict(), "normalization": (prepared.mean, prepared.std)}


def test_the_loss_is_one_minus_the_cosine_and_its_gradient_goes_to_the_student_alone() -> None:
    taught = Distillation(model(28, 1), 8, facts(28, 1))
    pixels = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    student = torch.randn(5, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss = taught(student, normalize_images(pixels, (0.4,), (0.2,)))
    wanted = taught.teacher.backbone(normalize_images(pixels, (0.2,), (0.3,)))
    by_hand = 1 - F.cosine_similarity(student.double(), wanted.double()).mean()
    assert loss.item() == pytest.approx(by_hand.item(), abs=1e-5)
    loss.backward()
    assert student.grad is not None
    assert list(taught.parameters()) == [] == list(taught.state_dict())
    assert all(weight.grad is None and not weight.requires_grad for weight in taught.teacher.backbone.parameters())
    taught.train()
    assert not taught.teacher.backbone.training


def test_no_step_but_the_first_makes_tensors_of_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each would wait for the device."""
    taught = Distillation(model(28, 1), 8, facts(28, 1))
    images = torch.rand(2, 1, 28, 28)
    first = taught(torch.ones(2, 8), images)

    def copied(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(torch, "tensor", copied)
    assert torch.equal(taught(torch.ones(2, 8), images), first)
    monkeypatch.undo()
    assert taught(torch.ones(2, 8), torch.rand(2, 1, 14, 14)).isfinite()  # another size is translated anew


def test_other_widths_have_a_linear_map_that_keeps_cosines_at_first() -> None:
    taught = Distillation(model(28, 1, width=16), 8, facts(28, 1))
    assert taught.map.weight.shape == (16, 8)  # type: ignore[union-attr]
    rows = torch.randn(4, 8)
    before = F.cosine_similarity(rows[:1], rows)
    assert torch.allclose(F.cosine_similarity(taught.map(rows[:1]), taught.map(rows)), before, atol=1e-5)
    assert list(taught.state_dict()) == ["map.weight"]
    again = Distillation(model(28, 1, width=16), 8, facts(28, 1))
    assert torch.equal(again.map.weight, taught.map.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_teacher_sees_the_same_pixels_in_its_own_normalization_and_order(order: Any, channel_order: Any) -> None:
    pixels = torch.randint(0, 256, (3, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    student = Preprocessor(12, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), channel_order=order)
    teacher = Preprocessor(12, 3, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), channel_order=channel_order)
    found = _Translation(student, teacher)(normalize_images(pixels, *student.normalization))
    assert torch.allclose(found, normalize_images(pixels, *teacher.normalization), atol=1e-5)
    assert torch.equal(_Translation(teacher, teacher)(found), found)


def test_the_teacher_sees_its_own_size_and_channels() -> None:
    student, teacher = Preprocessor(8, 1, (0.5,), (0.5,)), Preprocessor(16, 3, (0.0,) * 3, (1.0,) * 3)
    grey = torch.full((2, 1, 8, 8), 51, dtype=torch.uint8)
    found = _Translation(student, teacher)(normalize_images(grey, *student.normalization))
    assert torch.allclose(found, torch.full((2, 3, 16, 16), 0.2), atol=1e-6)
    color = torch.tensor([255, 0, 0], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 16, 16)
    found = _Translation(teacher, student)(normalize_images(color, *teacher.normalization))
    assert torch.allclose(found, torch.full((1, 1, 8, 8), (0.299 - 0.5) / 0.5), atol=1e-6)


def test_without_facts_images_are_pixels_from_0_to_1() -> None:
    prepared = _prepared({}, in_channels=3, image_size=20)
    assert (prepared.mean, prepared.std, prepared.image_size) == ((0.0,) * 3, (1.0,) * 3, 20)


def test_a_teacher_of_another_style_of_images_is_refused() -> None:
    with pytest.raises(
        UserError, match="model.teacher: got \"one of the style 'ink'\"; expected a teacher of images of"
    ):
        Distillation(model(28, 1, style="ink"), 8, facts(28, 1, style="picture"))


def test_the_student_comes_closer_to_the_teacher(tmp_path: Path, teacher: Path) -> None:
    taught = made(teacher, teacher_weight=20.0)
    fit(tmp_path, taught, limit_train_batches=20)
    alone = made()
    fit(tmp_path, alone, limit_train_batches=20)
    assert cosine(taught, teacher) > cosine(alone, teacher)


def cosine(module: ArcFaceModule, teacher: Path) -> float:
    data = MNISTDataModule(dataset="digits")
    data.prepare_data()
    data.setup()
    images: Tensor = next(iter(data.test_dataloader()))[0]  # type: ignore[arg-type]
    with torch.no_grad():
        wanted = ArcFaceModule.load_from_checkpoint(teacher)(images)
        return float(F.cosine_similarity(module.eval()(images), wanted).mean())


def test_a_checkpoint_has_no_teacher_and_a_resumed_run_is_exact(tmp_path: Path, teacher: Path) -> None:
    whole = made(teacher, width=6)
    fit(tmp_path, whole, 2)
    first = fit(tmp_path, made(teacher, width=6))
    first.save_checkpoint(tmp_path / "one.ckpt")
    content = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert [name for name in content["state_dict"] if "distillation" in name] == ["distillation.map.weight"]
    assert content["hyper_parameters"]["teacher"] == str(teacher)
    assert content["exact"]["settings"]["model.teacher.sha256"] == read_teacher(teacher).fingerprint
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes(teacher.read_bytes())
    resumed = made(moved, width=6)
    fit(tmp_path, resumed, 2, tmp_path / "one.ckpt")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    loaded = ArcFaceModule.load_from_checkpoint(tmp_path / "one.ckpt")  # reads no teacher
    assert loaded.distillation is None
    assert Recognizer.from_checkpoint(tmp_path / "one.ckpt") is not None


def test_another_teacher_or_weight_is_refused_on_resume(tmp_path: Path, teacher: Path) -> None:
    fit(tmp_path, made(teacher)).save_checkpoint(tmp_path / "one.ckpt")
    fit(tmp_path, made(), 2).save_checkpoint(tmp_path / "other.ckpt")
    for module, line in (
        (
            made(tmp_path / "other.ckpt"),
            "model.teacher.sha256: the checkpoint has '[0-9a-f]{64}', this run '[0-9a-f]{64}'",
        ),
        (made(), "model.teacher.sha256: the checkpoint has '[0-9a-f]{64}', this run None"),
        (made(teacher, teacher_weight=2.0), "model.teacher_weight: the checkpoint has 1.0, this run 2.0"),
    ):
        with pytest.raises(CheckpointError, match=line):
            fit(tmp_path, module, 2, tmp_path / "one.ckpt")


def test_a_folder_of_save_pretrained_teaches_as_the_checkpoint(tmp_path: Path, teacher: Path) -> None:
    recognizer = Recognizer.from_checkpoint(teacher)
    recognizer.save_pretrained(tmp_path / "folder")
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    student, known = torch.randn(4, 8), {"preprocessing": recognizer.model.preprocessor.to_dict()}
    losses = [Distillation(read_teacher(path), 8, known)(student, images) for path in (teacher, tmp_path / "folder")]
    assert torch.equal(*losses)


def test_an_onnx_file_teaches_with_the_preprocessing_beside_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weight = torch.randn(36, 8, generator=torch.Generator().manual_seed(0))
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["images"], ["flat"]),
            onnx.helper.make_node("MatMul", ["flat", "weight"], ["embeddings"]),
        ],
        "linear",
        [onnx.helper.make_tensor_value_info("images", floats, ["n", 1, 6, 6])],
        [onnx.helper.make_tensor_value_info("embeddings", floats, ["n", 8])],
        [onnx.numpy_helper.from_array(weight.numpy(), "weight")],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "linear.onnx")
    (tmp_path / "linear.yaml").write_text("mean: 127.5\nstd: 51\nchannel_order: gray\n")
    pixels = torch.randint(0, 256, (4, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    student = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))
    wanted = ((pixels - 127.5) / 51).flatten(1) @ weight
    loss = Distillation(read_teacher(tmp_path / "linear.onnx"), 8, facts(6, 1))(
        student, normalize_images(pixels, (0.4,), (0.2,))
    )
    assert torch.allclose(loss, 1 - F.cosine_similarity(student, wanted).mean(), atol=1e-5)


def test_a_missing_teacher_ends_the_run_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model\.teacher: .*nowhere\.ckpt"):
        fit(tmp_path, made(tmp_path / "nowhere.ckpt"))
    with pytest.raises(ValueError, match="teacher_weight: got 0"):
        made(None, teacher_weight=0)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_command_line_finds_the_best_run_as_a_teacher_and_records_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = (
        "fit --data.dataset digits --model.backbone FastCNN --max_epochs 1 --log_every_n_steps 1 "
        "--limit_train_batches 3 --enable_progress_bar false --default_root_dir runs"
    )
    for words in ([], ["--model.teacher", "best", "--model.backbone.embedding_dim", "16"]):
        with suppress(SystemExit):
            main([*shlex.split(short), *words])
    runs = tmp_path / "runs" / "lightning_logs"
    assert (
        "teacher: runs/lightning_logs/version_0/checkpoints/best.ckpt" in (runs / "version_1/config.yaml").read_text()
    )
    assert "train/distillation" in (runs / "version_1/metrics.csv").read_text().splitlines()[0]
