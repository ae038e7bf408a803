"""Every setting of the data modules, really changed on resume: refused, or the weights do not depend on it."""

import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from PIL import Image
from tiny_runs import QUIET
from torch import Tensor

import arcface_pl.data
from arcface_pl import ArcFaceHead, ArcFaceModule, FastCNN, ImageFolderDataModule, MNISTDataModule
from arcface_pl.backbones import BACKBONES
from arcface_pl.callbacks.run.resumed_settings import RESUMED_SETTINGS, verdict
from arcface_pl.checkpoints.specs import spec_of
from arcface_pl.data import ImageDataModule, OmniglotDataModule, PairsDataModule, RecordDataModule, TableDataModule
from arcface_pl.data.augment import Augmentation
from arcface_pl.data.sources.catalog import CATALOG
from arcface_pl.data.sources.find import find_folder
from arcface_pl.errors import UserError
from arcface_pl.heads import HEADS

CLASSES = "abcd"
SECOND = ["test", "val", "test", *["train"] * 7]  # another division


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders ``pictures`` and ``others`` of 40 images in 4 classes, two tables of the first, and a small Omniglot."""
    place, generator = tmp_path_factory.mktemp("data"), torch.Generator().manual_seed(0)
    rows = []
    for root, name, number in ((r, c, n) for r in ("pictures", "others") for c in CLASSES for n in range(10)):
        pixels = torch.randint(0, 256, (28, 28), generator=generator, dtype=torch.uint8)
        path = place / root / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(path)
        if root == "pictures":
            part = ("train", "val", "test")[max(0, number - 7)]
            role = ("query", "gallery")[number % 2] if part == "test" else ""
            other = CLASSES[-CLASSES.index(name)], f"{name}/{9 - number}.png"
            rows.append([f"{name}/{number}.png", name, *other, part, SECOND[number], role])
    header = ["path", "label", "other", "path2", "split", "split2", "role"]
    for table, shown in (("table.csv", rows), ("fewer.csv", rows[1:])):
        lines = [",".join(row) for row in (header, *shown)]
        (place / "pictures" / table).write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "data")
        from alphabets import archives, drawings, members, use_made_up, write_archives
        from record_files import write_set

        for root in ("pictures", "others"):
            files = sorted((place / root).rglob("*.png"))
            write_set(place / f"{root}_rec", [(each.read_bytes(), CLASSES.index(each.parent.name)) for each in files])
        packed = archives(members(drawings()))
        use_made_up(patch, packed)
        write_archives(place / "data", packed)
        yield place


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(place)
    yield
    L.seed_everything(0, verbose=False)


def invert(image: Tensor) -> Tensor:
    return 255 - image


COMMON: dict[str, dict[str, Any]] = {  # of all: what is given, as arguments of the class
    "batch_size": {"batch_size": 16},
    "eval_batch_size": {"eval_batch_size": 17},
    "val_fraction": {"val_fraction": 0.3},
    "watch_test": {"watch_test": True},
    "images_per_class": {"images_per_class": 2},
    "normalize": {"normalize": False},
    "augmentation": {"augmentation": Augmentation(1, 0, 0)},
    "transform": {"transform": invert},
    "eval_transform": {"eval_transform": invert},
    "seed": {"seed": 5},
    "allow_inexact_resume": {"allow_inexact_resume": True},
    "classes": {"classes": ["1", "0", "2"]},
    "held_out_classes": {"held_out_classes": 2},
    "augment": {"augment": False},
    "rotation": {"rotation": 3.0},
    "shift": {"shift": 1.0},
    "zoom": {"zoom": 0.2},
}
FILES = {
    **COMMON,
    "classes": {"classes": ["b", "a"]},
    "image_size": {"image_size": 32},
    "in_channels": {"in_channels": 3},
    "channel_order": {"in_channels": 3, "channel_order": "bgr"},
    "test_fraction": {"test_fraction": 0.4},
    "mean": {"mean": [0.5], "std": [0.5]},
    "std": {"mean": [0.4], "std": [0.25]},
    "white_level": {"white_level": 255.0},
    "flip": {"flip": False},
    "color": {"color": 0.5},
    "balance": {"balance": True},
    "check_files": {"check_files": False},
    "skip_unreadable": {"skip_unreadable": True},
    "resident": {"resident": False},
    "num_workers": {"num_workers": 1, "resident": False},
}
CHANGES: dict[Any, dict[str, dict[str, Any]]] = {
    MNISTDataModule: {
        **COMMON,
        "data_dir": {"data_dir": "elsewhere"},
        "dataset": {"dataset": "mnist"},
        "elastic": {"elastic": 2.0},
        "channel_order": {"dataset": "cifar10", "channel_order": "bgr"},
    },
    OmniglotDataModule: {
        **{name: change for name, change in COMMON.items() if name != "watch_test"},
        "data_dir": {"data_dir": "elsewhere"},
        "image_size": {"image_size": 20},
        "resize": {"resize": "bold"},
        "rotations": {"rotations": True},
        "elastic": {"elastic": 2.0},
        "classes": {"classes": ["Greek"]},
        "held_out_classes": {"held_out_classes": 1},
    },
    ImageFolderDataModule: {**FILES, "root": {"root": "others"}},
    RecordDataModule: {**FILES, "classes": {"classes": ["1", "0"]}, "root": {"root": "others_rec"}},
    TableDataModule: {
        **{name: change for name, change in FILES.items() if name not in ("val_fraction", "test_fraction")},
        "table": {"table": "pictures/fewer.csv"},
        "root": {"root": "others"},
        "path_column": {"path_column": "path2"},
        "label_column": {"label_column": "other"},
        "split_column": {"split_column": "split2", "role_column": "nosuch"},
        "role_column": {"role_column": "nosuch"},
        "val_fraction": {"val_fraction": 0.3, "split_column": "nosuch"},  # ignored where the table divides
        "test_fraction": {"test_fraction": 0.4, "split_column": "nosuch"},
    },
}
FILE_SIZES = {"image_size": 28, "in_channels": 1, "num_workers": 0}
ONE_VALUE = {OmniglotDataModule: {"watch_test", "channel_order"}}  # another is an error with or without a checkpoint
GIVEN: dict[Any, dict[str, Any]] = {
    MNISTDataModule: {"dataset": "digits"},
    OmniglotDataModule: {"val_fraction": 0.1},
    ImageFolderDataModule: {"root": "pictures", **FILE_SIZES},
    RecordDataModule: {"root": "pictures_rec", **FILE_SIZES},
    TableDataModule: {"table": "pictures/table.csv", **FILE_SIZES},
}


def arguments_of(cls: type) -> set[str]:
    """Return the names that the constructors of a class and its bases take."""
    found = {name for each in cls.__mro__ if "__init__" in vars(each) and each.__module__.startswith("arcface_pl")
             for name, one in inspect.signature(each.__init__).parameters.items()
             if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}  # fmt: skip
    return found - {"self"}


def test_every_setting_has_a_row() -> None:
    named = {f"trainer.{name}" for name in inspect.signature(L.Trainer).parameters}
    named |= {f"model.{name}" for name in arguments_of(ArcFaceModule)}
    assert sorted(named - set(RESUMED_SETTINGS)) == []
    rows = {name for name in RESUMED_SETTINGS if name.count(".") == 1 and name.startswith(("trainer.", "model."))}
    assert sorted(rows - named) == ["model.frozen"]  # what is frozen before training begins


def test_every_setting_of_every_data_module_is_tried() -> None:
    exported = {getattr(arcface_pl.data, name) for name in arcface_pl.data.__all__}
    modules = {each for each in exported if isinstance(each, type) and issubclass(each, L.LightningDataModule)}
    assert modules == {*CHANGES, ImageDataModule, PairsDataModule}  # an abstract one, and one for evaluation
    for cls, changes in CHANGES.items():
        assert sorted(changes) == sorted(arguments_of(cls) - ONE_VALUE.get(cls, set())), cls
    names = {name for cls in CHANGES for name in arguments_of(cls)}
    assert {name for name in RESUMED_SETTINGS if name.startswith("data.")} <= {f"data.{name}" for name in names}


@pytest.mark.parametrize("name", [*HEADS, *BACKBONES])
def test_every_setting_of_a_network_is_recorded(name: str) -> None:
    if name in ("TorchvisionBackbone", "TimmBackbone"):
        pytest.skip("in tests/backbones/")
    network: Any = HEADS[name](8, 4) if name in HEADS else BACKBONES[name](embedding_dim=8)
    assert spec_of(network)["kwargs"].keys() == inspect.signature(type(network)).parameters.keys()


def run(cls: Any, place: Path, epochs: int, checkpoint: Path | None = None, **changes: Any) -> dict[str, Tensor]:
    """Train, save ``place/N.ckpt`` after each epoch, and return the weights."""
    L.seed_everything(0, verbose=False)
    torch.set_num_threads(1)
    data = cls(**{"batch_size": 8, **GIVEN[cls], **changes})
    data.prepare_data()
    data.setup("fit")
    module = ArcFaceModule(
        FastCNN(8, width=4, in_channels=data.in_channels, image_size=data.image_size),
        ArcFaceHead(8, data.num_classes),
        partial(torch.optim.SGD, lr=0.1),
    )

    def save(trainer: L.Trainer, _: L.LightningModule) -> None:
        if checkpoint is None:
            trainer.save_checkpoint(place / f"{trainer.current_epoch}.ckpt")

    saver = LambdaCallback(on_train_epoch_end=save)
    trainer = L.Trainer(**QUIET, max_epochs=epochs, limit_train_batches=2, limit_val_batches=1, callbacks=[saver])
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return {name: each.clone() for name, each in module.state_dict().items()}


@pytest.fixture(scope="module", params=CHANGES, ids=lambda cls: cls.__name__)
def whole(request: pytest.FixtureRequest, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A data module, the checkpoint of its first epoch, and the weights after two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        folder = tmp_path_factory.mktemp("run")
        return request.param, folder / "0.ckpt", run(request.param, folder, 2)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_each_is_refused_or_changes_nothing(whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls, checkpoint, weights = whole
    wrong = []
    for name, changes in CHANGES[cls].items():
        if "dataset" in changes and find_folder(CATALOG[changes["dataset"]], "data") is None:
            continue
        try:
            found = run(cls, tmp_path, 2, checkpoint, **changes)
        except UserError as error:
            message = str(error)
            told = "the checkpoint has" in message and "this run" in message and "\n" not in message
            if verdict(f"data.{name}") != "unless allowed" or not told:
                wrong.append(f"{name}: {message}")
        else:
            same = all(torch.equal(each, weights[key]) for key, each in found.items())
            if verdict(f"data.{name}") != "harmless" or not same:
                wrong.append(f"{name}: not refused, weights {'alike' if same else 'differ'}")
    assert not wrong, "\n".join(wrong)
