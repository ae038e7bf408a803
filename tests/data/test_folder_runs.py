"""Training on folders: the recipes on the command line, exact resume through workers, in one process and in two."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from faces import write_faces
from lightning.pytorch.callbacks import Callback
from PIL import Image
from record_files import write_set
from torch import Tensor, nn

from arcface_pl import ArcFaceModule
from arcface_pl.cli import main
from arcface_pl.data import ImageFolderDataModule, PairsDataModule, RecordDataModule
from arcface_pl.data.folders.image_files import ImageFiles
from arcface_pl.metrics.functional import equal_error_rate
from arcface_pl.preprocessing import Preprocessor

CONFIGS = Path(__file__).parents[2] / "arcface_pl" / "configs"
QUICK = ["--accelerator", "cpu", "--enable_progress_bar", "false", "--data.num_workers", "0"]

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("own") / "faces", people=6, pictures=10, size=40)


@pytest.fixture(scope="module")
def records(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = sorted(faces.glob("*/*.jpg"))
    return write_set(
        tmp_path_factory.mktemp("rec"), [(path.read_bytes(), int(path.parent.name[-3:])) for path in files]
    )


class Recorder(L.LightningModule):
    """A small model that writes down every batch it is given, exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3 * 16 * 16, 6)
        self.seen: list[tuple[int, int, Tensor, Tensor]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch_idx, batch[0].clone(), batch[1].clone()))
        return nn.functional.cross_entropy(self.net(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Saver(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def run(
    root: Path, checkpoint: Path | None = None, callbacks: Sequence[Callback] = (), devices: int = 1, **data: Any
) -> Recorder:
    torch.manual_seed(0)
    model = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )
    kind = RecordDataModule if (root / "train.rec").exists() else ImageFolderDataModule
    datamodule = kind(
        str(root), **{"image_size": 16, "batch_size": 9, "seed": 5, "resident": False, "balance": True, **data}
    )
    trainer.fit(model, datamodule, ckpt_path=checkpoint, weights_only=True)
    return model


def check_same(one: list[Any], other: list[Any]) -> None:
    assert len(one) == len(other)
    for (epoch, step, images, labels), (epoch_too, step_too, images_too, labels_too) in zip(one, other, strict=True):
        assert (epoch, step) == (epoch_too, step_too)
        assert torch.equal(images, images_too)
        assert torch.equal(labels, labels_too)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "workers"), [("faces", 0), ("faces", 2), ("records", 2)])
def test_from_every_step_the_rest_is_that_of_the_uninterrupted_run(
    request: pytest.FixtureRequest, tmp_path: Path, source: str, workers: int
) -> None:
    root = request.getfixturevalue(source)
    whole = run(root, callbacks=[Saver(tmp_path)], num_workers=workers)
    assert len(whole.seen) == 12
    for step in (1, 4, 6, 9) if source == "faces" else (4,):
        # With other workers, and from memory: neither has a part in what comes.
        for other in ({"num_workers": workers}, {"num_workers": 2 - workers}, {"resident": True, "num_workers": 0}):
            rest = run(root, tmp_path / f"{step}.ckpt", **other)
            check_same(rest.seen, whole.seen[step:])
            assert torch.equal(rest.net.weight, whole.net.weight)


@pytest.mark.slow
def test_two_processes_share_and_resume(faces: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    subprocess.run([sys.executable, __file__, str(faces), str(tmp_path)], env=environment, check=True, timeout=200)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for rank in ranks:
        check_same(rank["resumed"], rank["whole"][2:])
        assert torch.equal(*rank["weights"])
    assert [rank["checks"] > 0 for rank in ranks] == [True, False]  # one looks for unreadable files
    # Together they saw what one process would have seen in the same order.
    labels = [torch.cat([step[3] for step in rank["whole"] if step[0] == 0]) for rank in ranks]
    alone = torch.cat([step[3] for step in run(faces, num_workers=0).seen if step[0] == 0])
    assert torch.equal(torch.stack(labels, dim=1).flatten(), alone[: 2 * len(labels[0])])


def in_two_processes(root: Path, folder: Path) -> None:
    """What the test above runs as a program."""
    checks: list[int] = []
    check = ImageFiles.unreadable
    ImageFiles.unreadable = lambda files, workers: (checks.append(workers), check(files, workers))[1]
    whole = run(root, callbacks=[Saver(folder)], devices=2, num_workers=2)
    resumed = run(root, folder / "2.ckpt", devices=2, num_workers=0)
    weights = (whole.net.weight.detach(), resumed.net.weight.detach())
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    found = {"whole": whole.seen, "resumed": resumed.seen, "weights": weights, "checks": len(checks)}
    torch.save(found, folder / f"{rank}.pt")


def test_names_that_yaml_reads_as_something_else_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a config and from flags, unquoted, down to the classes that the start panel lists."""
    monkeypatch.chdir(tmp_path)
    names = ["001", "1e3", "2024-01-01", "true", "null", "+2", "0x3", "a b", "cat", "Zoë"]
    for label, name in enumerate(names):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (28, 28), 20 * label + number).save(tmp_path / "set" / name / f"{number}.png")
    (tmp_path / "names.yaml").write_text(
        "data:\n  class_path: ImageFolderDataModule\n  init_args:\n    root: set\n    in_channels: 1\n"
        "    image_size: 28\n    num_workers: 0\n    classes: [001, 1e3, 2024-01-01, true, null, a b]\n",
        encoding="utf-8",
    )
    quick = ["--fast_dev_run", "true", "--accelerator", "cpu", "--enable_progress_bar", "false"]
    main(["fit", "--config", "names.yaml", "--data.held_out_classes", "[+2, 0x3, Zoë]", *quick])
    panel = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "6 classes: 001, 1e3, 2024-01-01, a b, null, true; 3 held out: +2, 0x3, Zoë" in panel


def test_other_batches_are_refused(faces: Path, tmp_path: Path) -> None:
    run(faces, callbacks=[Saver(tmp_path)], num_workers=0)
    for change in ({"balance": False}, {"image_size": 16, "color": 0.5}, {"mean": [0.5] * 3, "std": [0.5] * 3}):
        with pytest.raises(ValueError, match="cannot be resumed exactly"):
            run(faces, tmp_path / "2.ckpt", num_workers=0, **change)


@pytest.mark.slow
def test_the_folder_recipe_trains_and_its_checkpoint_is_tested(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--data.image_size", "32", "--data.batch_size", "16", "--data.test_fraction", "0.2", "--max_epochs", "1"]
    main(["fit", "--config", str(CONFIGS / "folder.yaml"), "--data.root", str(faces), *small, *QUICK])
    folder = tmp_path / "lightning_logs" / "version_0"
    results = json.loads((folder / "results.json").read_text())
    assert results["dataset"] == "faces"
    # The images have gone elsewhere, among others: they are normalized as in training all the same.
    main(["test", "--ckpt_path", "best", "--accelerator", "cpu", "--data.num_workers", "0"])
    assert json.loads((folder / "test.json").read_text())["test/accuracy"] == results["test/accuracy"]
    module = ArcFaceModule.load_from_checkpoint(folder / "checkpoints" / "best.ckpt")
    assert module.data_facts["class_names"] == [f"Person_{number:03d}" for number in range(6)]
    assert module.data_facts["preprocessing"]["style"] == "picture"


@pytest.mark.slow
def test_the_face_recipe_learns_made_up_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty people in training; five whom it never saw are told apart by a list of pairs."""
    monkeypatch.chdir(tmp_path)
    write_faces(tmp_path / "faces", people=20, pictures=8)
    write_faces(tmp_path / "strangers", people=5, pictures=5, seed=1)
    names = [f"Person_{number:03d}" for number in range(5)]
    genuine = [f"{name}\t{a}\t{a + 1}" for name in names for a in range(1, 5)]
    impostor = [f"{names[n % 5]}\t{n % 4 + 1}\t{names[(n + 1) % 5]}\t{n % 3 + 1}" for n in range(20)]
    lines = [line for fold in range(2) for kind in (genuine, impostor) for line in kind[10 * fold : 10 * fold + 10]]
    (tmp_path / "pairs.txt").write_text("\n".join(["2\t10", *lines]))
    small = ["--model.backbone.depth", "18", "--data.image_size", "48", "--data.batch_size", "32"]
    small += [
        "--data.val_fraction",
        "0.1",
        "--data.test_fraction",
        "0.1",
        "--max_epochs",
        "3",
        "--precision",
        "32-true",
    ]
    small += ["--model.optimizer.lr", "0.00625"]  # the recipe's, for a batch of 32 in place of 512
    main(["fit", "--config", str(CONFIGS / "face.yaml"), "--data.root", "faces", *small, *QUICK])
    module = ArcFaceModule.load_from_checkpoint(next(tmp_path.glob("lightning_logs/*/checkpoints/last.ckpt")))
    data = PairsDataModule("strangers", "pairs.txt")
    data.use_preprocessing(Preprocessor.from_dict(module.data_facts["preprocessing"]))
    data.setup("test")
    with torch.no_grad():
        embeddings = torch.cat([module(images) for images, _ in data.test_dataloader()])
    unit = nn.functional.normalize(embeddings)
    scores = (unit[data.pairs.first] * unit[data.pairs.second]).sum(1)
    assert equal_error_rate(scores[data.pairs.is_genuine], scores[~data.pairs.is_genuine]) < 0.35


if __name__ == "__main__":
    in_two_processes(Path(sys.argv[1]), Path(sys.argv[2]))
