"""Folders of images: which files are whose, and batches that are the same from memory and from files."""

import io
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from arcface_pl.data import BatchLoader, DataError, ImageFolderDataModule
from arcface_pl.data.epochs import Step
from arcface_pl.data.folders import image_files
from arcface_pl.data.folders.image_files import FileLoader
from arcface_pl.data.folders.tree import class_folders, find_images, split_folders
from arcface_pl.data.folders.workers import Workers
from arcface_pl.preprocessing import Preprocessor

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def write(path: Path, value: int = 0, size: tuple[int, int] = (20, 16), mode: str = "RGB") -> Path:
    """Write a picture whose pixels are a function of ``value``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.random.default_rng(value).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels, mode=None).save(path)
    return path


def tree(root: Path, counts: dict[str, int], **kwargs: Any) -> Path:
    for place, (name, count) in enumerate(counts.items()):
        for number in range(count):
            write(root / name / f"{number:03d}.png", 1000 * place + number, **kwargs)
    return root


def names_of(root: Path) -> list[str]:
    classes = class_folders(root)
    files = find_images(root, classes, list(classes))
    return files.names(torch.arange(len(files.labels)))


def made(root: Path, **kwargs: Any) -> ImageFolderDataModule:
    data = ImageFolderDataModule(
        str(root), **{"image_size": 16, "batch_size": 8, "num_workers": 0, "seed": 3, **kwargs}
    )
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize(("terminal", "rank", "shown"), [(True, "0", True), (False, "0", False), (True, "1", False)])
def test_a_bar_is_drawn_by_one_process_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool, rank: str, shown: bool
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(image_files, "Console", lambda **_: Console(file=screen, force_terminal=terminal, width=80))
    monkeypatch.setenv("LOCAL_RANK", rank)
    made(tree(tmp_path, {"a": 8, "b": 8}))
    assert ("images" in screen.getvalue()) == shown
    assert bool(screen.getvalue()) == shown


class TestTree:
    def test_classes_are_sorted_folders_and_files_come_by_name(self, tmp_path: Path) -> None:
        tree(tmp_path, {"b": 2, "a": 1, "C": 1})
        assert list(class_folders(tmp_path)) == ["C", "a", "b"]
        assert names_of(tmp_path) == ["C/000.png", "a/000.png", "b/000.png", "b/001.png"]

    def test_deep_files_belong_to_the_class_at_the_top(self, tmp_path: Path) -> None:
        write(tmp_path / "a" / "z.png")
        write(tmp_path / "a" / "2023" / "summer" / "x.JPEG")
        write(tmp_path / "b" / "deeper" / "y.bmp")
        assert names_of(tmp_path) == ["a/z.png", "a/2023/summer/x.JPEG", "b/deeper/y.bmp"]

    def test_what_is_hidden_or_no_image_is_left_out(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        tree(tmp_path, {"a": 1, ".hidden": 1, "b": 1})
        write(tmp_path / "a" / ".cache" / "x.png")
        write(tmp_path / "a" / "._000.png")
        write(tmp_path / "loose.png")
        (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "readme.txt").write_text("x")
        assert names_of(tmp_path) == ["a/000.png", "b/000.png"]
        assert "folders without images are not classes: notes" not in caplog.text

    def test_links_are_followed_once(self, tmp_path: Path) -> None:
        elsewhere = tree(tmp_path / "elsewhere", {"x": 2})
        root = tree(tmp_path / "root", {"a": 1})
        (root / "b").symlink_to(elsewhere / "x", target_is_directory=True)
        (root / "a" / "up").symlink_to(root / "a", target_is_directory=True)
        (root / "a" / "linked.png").symlink_to(elsewhere / "x" / "000.png")
        assert names_of(root) == ["a/000.png", "a/linked.png", "b/000.png", "b/001.png"]

    @pytest.mark.parametrize(("link", "target"), [("c", "a"), ("a/up", ".")])
    def test_a_link_that_puts_images_in_two_classes(self, tmp_path: Path, link: str, target: str) -> None:
        tree(tmp_path, {"a": 1, "b": 1})
        (tmp_path / link).symlink_to(tmp_path / target, target_is_directory=True)
        with pytest.raises(DataError, match=r"by a link, in the classes a and [bc]'; expected each image in one class"):
            names_of(tmp_path)

    def test_a_division_that_is_a_link_to_another(self, tmp_path: Path) -> None:
        """Scores would be those of the training images."""
        tree(tmp_path / "train", {"a": 1, "b": 1})
        (tmp_path / "test").symlink_to("train")
        with pytest.raises(DataError, match="got 'train, a link to test'; expected other images in each"):
            split_folders(tmp_path)

    def test_a_link_to_nothing_is_an_unreadable_image(self, tmp_path: Path) -> None:
        tree(tmp_path, {"a": 6, "b": 6})
        (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
        with pytest.raises(DataError, match=r"1 of 13 images cannot be read: .*gone\.png: there is no such file"):
            made(tmp_path)

    def test_names_are_compared_as_people_read_them(self, tmp_path: Path) -> None:
        composed, apart = unicodedata.normalize("NFC", "Zoë 東京"), unicodedata.normalize("NFD", "Zoë 東京")
        tree(tmp_path / "train", {composed: 3, "a": 3})
        tree(tmp_path / "test", {apart: 2})
        data = made(tmp_path, val_fraction=0.0)
        assert data.class_names == [composed, "a"]
        assert data.num_test == 2
        assert data.test_dataloader().labels.tolist() == [0, 0]

    def test_names_that_are_no_text_are_named(self, tmp_path: Path) -> None:
        tree(tmp_path, {"a": 1})
        write(tmp_path / os.fsdecode(b"caf\xe9") / "x.png")
        with pytest.raises(DataError, match="expected folders named in UTF-8"):
            class_folders(tmp_path)

    def test_files_may_have_any_name(self, tmp_path: Path) -> None:
        name = os.fsdecode(b"caf\xe9 \xe6\x9d\xb1.png")
        tree(tmp_path, {"a": 3, "b": 3})
        write(tmp_path / "a" / name)
        assert f"a/{name}" in names_of(tmp_path)
        assert made(tmp_path).num_train + made(tmp_path).num_test + made(tmp_path).num_val == 7

    def test_what_is_left_out_is_counted_by_suffix(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        tree(tmp_path, {"a": 9, "b": 9})
        write(tmp_path / "loose.png")
        for name in ("a/1.heic", "a/2.HEIC", "b/notes.txt", "b/README", "b/.DS_Store"):
            (tmp_path / name).write_bytes(b"x")
        (tmp_path / "c").mkdir()
        made(tmp_path)
        said = [each.getMessage().removeprefix(f"{tmp_path}: ") for each in caplog.records if "tree" in each.name]
        assert said == [
            "folders without images are not classes: c",
            "left out 1 images next to the class folders",
            "left out 4 files that are not images: 2 .heic, 1 without suffix, 1 .txt",
        ]

    def test_names_that_look_alike_are_reported(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        apart = unicodedata.normalize("NFD", "Zoë")
        tree(tmp_path, {"Cat": 5, "cat": 5, "ﬁsh": 5, "fish": 5, "Zoë": 5, apart: 5, "dog": 5})
        assert made(tmp_path).class_names == ["Cat", "Zoë", "cat", "dog", "fish", "ﬁsh"]
        assert "2 folders named Zoë, in different Unicode forms, are one class" in caplog.text
        assert "'Cat', 'cat' are different classes" in caplog.text
        assert "'fish', 'ﬁsh' are different classes" in caplog.text
        assert "dog" not in caplog.text

    @pytest.mark.parametrize(
        "names",
        [
            ("train", "val", "test"),
            ("Train", "Valid", "Test"),
            ("training", "validation", "testing"),
            ("TRAIN", "DEV", "TEST"),
            ("train", "eval", "test"),
        ],
    )
    def test_divisions_have_many_names(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        for part, count in zip(names, (4, 3, 2), strict=True):
            tree(tmp_path, {f"{part}/a": count, f"{part}/b": count})
        (tmp_path / ".git").mkdir()
        (tmp_path / "README.md").write_text("faces")
        data = made(tmp_path)
        assert data.class_names == ["a", "b"]
        assert (data.num_train, data.num_val, data.num_test) == (8, 6, 4)

    @pytest.mark.parametrize(
        "others", ["cat", "__MACOSX", ".thumbnails/train", "Train", "training", "dev"], ids=lambda name: name
    )
    def test_divisions_next_to_anything_else_are_refused(self, tmp_path: Path, others: str) -> None:
        tree(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, f"{others}/a": 2})
        with pytest.raises(
            DataError, match=r"train.*val.*; expected either train, .*; or only class folders"
        ) as raised:
            _ = ImageFolderDataModule(str(tmp_path)).num_classes
        assert others.split("/")[0] in str(raised.value)
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize(
        "names",
        [
            "train_set test_set",
            "trainset testset",
            "seg_train seg_test",
            "TrainingData TestData",
            "tr te",
            "train-1 val-1",
        ],
    )
    def test_names_much_like_divisions_are_refused(self, tmp_path: Path, names: str) -> None:
        """They were two classes, without a word."""
        first, second = names.split()
        tree(tmp_path, {f"{first}/a": 2, f"{first}/b": 2, f"{second}/a": 2})
        with pytest.raises(DataError, match=f"data.root .*{first}.*expected folders named train"):
            split_folders(tmp_path)

    @pytest.mark.parametrize("names", ["train_station test_tube bus", "trainer tester", "string gist", "tram test1 b"])
    def test_classes_with_such_words_among_others_are_classes(self, tmp_path: Path, names: str) -> None:
        tree(tmp_path, {f"{name}/x": 1 for name in names.split()})
        assert split_folders(tmp_path) == {}

    def test_a_division_inside_each_class_is_reported(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        tree(tmp_path, {"cat/train": 9, "cat/test": 9, "dog/train": 9, "dog/test": 9})
        made(tmp_path)
        assert "all 2 classes hold the same folders: test, train" in caplog.text

    def test_one_folder_around_the_classes_is_named(self, tmp_path: Path) -> None:
        tree(tmp_path, {"photos/a": 2, "photos/b": 2})
        with pytest.raises(DataError, match="got 'one class, photos'.*Perhaps data.root .*photos is meant"):
            made(tmp_path)

    def test_a_missing_folder_names_the_setting(self) -> None:
        with pytest.raises(DataError, match="data.root: got 'photos'; .*No such file"):
            _ = ImageFolderDataModule("photos").num_classes

    def test_a_division_without_train_is_refused(self, tmp_path: Path) -> None:
        tree(tmp_path, {"val/a": 2, "test/a": 2})
        with pytest.raises(DataError, match="got 'test, val'; expected either train, "):
            split_folders(tmp_path)

    def test_classes_below_an_archives_leftovers(self, tmp_path: Path) -> None:
        tree(tmp_path, {"a": 1, "b": 1, "__MACOSX": 1})
        assert split_folders(tmp_path) == {}
        assert list(class_folders(tmp_path)) == ["a", "b"]

    @pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text(""), lambda path: path.mkdir()])
    def test_no_images_at_all(self, tmp_path: Path, make: Any) -> None:
        make(tmp_path / "root")
        with pytest.raises(DataError, match=r"root: .*expected a folder"):
            _ = ImageFolderDataModule(str(tmp_path / "root")).num_classes

    def test_one_class_is_too_few(self, tmp_path: Path) -> None:
        tree(tmp_path, {"a": 3})
        with pytest.raises(DataError, match="got 'one class, a'; expected two or more folders with images"):
            _ = ImageFolderDataModule(str(tmp_path)).num_classes

    def test_a_test_class_must_be_known(self, tmp_path: Path) -> None:
        tree(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1, "test/stranger": 1})
        with pytest.raises(DataError, match=r"test: got 'the classes stranger'; expected the 2 classes of training"):
            made(tmp_path)


class TestParts:
    def test_one_tree_is_divided_class_by_class(self, tmp_path: Path) -> None:
        data = made(tree(tmp_path, {"a": 40, "b": 20}), test_fraction=0.2, val_fraction=0.25)
        assert (data.num_train, data.num_val, data.num_test) == (36, 12, 12)
        assert data.class_counts == [24, 12]
        images = [set(map(bytes, loader.data.images.flatten(1).numpy())) for loader in loaders(data)]
        assert sum(map(len, images)) == len(set.union(*images)) == 60

    def test_the_seed_decides(self, tmp_path: Path) -> None:
        tree(tmp_path, {"a": 20, "b": 20})
        one, again, other = (made(tmp_path, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(one.test_dataloader().data.images, again.test_dataloader().data.images)
        assert not torch.equal(one.test_dataloader().data.images, other.test_dataloader().data.images)

    def test_folders_divide_where_they_are(self, tmp_path: Path) -> None:
        tree(tmp_path, {"train/a": 5, "train/b": 5, "val/a": 2, "val/b": 1, "test/b": 3})
        data = made(tmp_path, val_fraction=0.5, test_fraction=0.5)
        assert (data.num_train, data.num_val, data.num_test) == (10, 3, 3)
        assert data.val_labels.tolist() == [0, 0, 1]

    def test_validation_is_set_aside_where_only_the_test_is_given(self, tmp_path: Path) -> None:
        data = made(tree(tmp_path, {"train/a": 10, "train/b": 10, "test/b": 3}), val_fraction=0.2)
        assert (data.num_train, data.num_val, data.num_test) == (16, 4, 3)

    def test_without_validation(self, tmp_path: Path) -> None:
        data = made(tree(tmp_path, {"a": 10, "b": 10}), val_fraction=0.0)
        assert data.val_dataloader() == []


class TestHeldOutClasses:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tree(tmp_path / "set", {"a": 20, "b": 12, "c": 8, "d": 16, "e": 4}, size=(16, 16))

    @pytest.mark.parametrize("resident", [True, False])
    def test_every_image_is_in_one_part_with_its_own_label(self, root: Path, resident: bool) -> None:
        data = made(root, held_out_classes=["b", "d"], resident=resident, augment=False, normalize=False)
        assert (data.num_classes, data.class_names, data.held_out_class_names) == (3, ["a", "c", "e"], ["b", "d"])
        names = {
            np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes(): path.parent.name for path in root.rglob("*.png")
        }
        seen = []
        for loader, class_names in (
            *((loader, data.class_names) for loader in loaders(data)),
            *((data.held_out_dataloader(split), data.held_out_class_names) for split in ("val", "test")),
        ):
            for images, labels in loader:
                for image, label in zip((images * 255).round().byte().contiguous(), labels.tolist(), strict=True):
                    pixels = image.contiguous(memory_format=torch.contiguous_format).numpy().tobytes()
                    assert names[pixels] == class_names[label]
                    seen.append(pixels)
        assert len(seen) == len(set(seen)) == 60

    def test_nothing_changes_where_nothing_is_held_out(self, root: Path) -> None:
        data, spelled = made(root), made(root, classes=["a", "b", "c", "d", "e"], held_out_classes=[])
        assert data.state_dict() == spelled.state_dict()
        assert data.state_dict()["in_channels"] == data.in_channels
        with pytest.raises(RuntimeError, match="no class is held out"):
            data.held_out_dataloader("test")

    def test_normalisation_never_sees_them(self, root: Path) -> None:
        for number in range(12):
            Image.new("RGB", (16, 16), "white").save(root / "b" / f"{number:03d}.png")
        data = made(root, held_out_classes=["b", "d"], augment=False, val_fraction=0.0)
        images = torch.cat([images for images, _ in data.train_dataloader()])
        assert torch.allclose(images.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)

    def test_folders_divide_them_too(self, tmp_path: Path) -> None:
        counts = {f"{part}/{name}": count for part, count in (("train", 5), ("test", 2)) for name in "abcd"}
        data = made(tree(tmp_path, counts), held_out_classes=["a", "d"])
        assert [len(data.held_out_dataloader(split).labels) for split in ("val", "test")] == [10, 4]
        assert (data.num_train + data.num_val, data.num_test) == (10, 4)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"held_out_classes": ["a", "x"]}, "held_out_classes: got 'x'; expected 'a', 'b', 'c', 'd', 'e'$"),
            ({"held_out_classes": ["a"]}, "held_out_classes: got .*a.*; expected at least two"),
            (
                {"classes": ["a", "b"], "held_out_classes": ["b", "c"]},
                "held_out_classes: got .*b.*; expected classes that are not in classes too",
            ),
        ],
    )
    def test_a_mistake_shows_before_any_work(self, root: Path, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ImageFolderDataModule(str(root), **settings)


@pytest.mark.parametrize("resident", [True, False])
def test_deep_images_are_scaled_alike(tmp_path: Path, resident: bool) -> None:
    """12 bits in 16-bit files: the dark one stays darker by the same factor, and the model's own reader agrees."""
    for number in range(10):
        for name, brightness in (("a", 4095), ("b", 400)):
            (tmp_path / name).mkdir(exist_ok=True)
            pixels = np.full((16, 16), brightness - number, np.uint16)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    data = made(tmp_path, in_channels=1, resident=resident, normalize=False, augment=False)
    means = {0: [], 1: []}
    for loader in loaders(data):
        for images, labels in loader:
            for image, label in zip(images, labels.tolist(), strict=True):
                means[label].append(float(image.mean()))
    assert sorted(round(255 * mean) for mean in means[0]) == [254] + [255] * 9
    assert sorted(round(255 * mean) for mean in means[1]) == [24] * 3 + [25] * 7
    kept = Preprocessor.from_dict(data.preprocessing)
    assert kept.white_level == 4095
    assert kept.read(tmp_path / "b" / "0.png").unique().tolist() == [25]
    assert made(tmp_path, in_channels=1, white_level=65_535.0).preprocessing["white_level"] == 65_535


def loaders(data: ImageFolderDataModule) -> list[Any]:
    return [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]


class TestImages:
    @pytest.mark.parametrize("resident", [True, False])
    def test_sizes_and_kinds_are_brought_to_one(self, tmp_path: Path, resident: bool) -> None:
        write(tmp_path / "a" / "wide.png", size=(40, 16))
        write(tmp_path / "a" / "high.jpg", size=(16, 33))
        write(tmp_path / "b" / "grey.png", size=(64, 64), mode="L")
        write(tmp_path / "b" / "tiny.gif", size=(3, 5))
        data = made(tmp_path, resident=resident, val_fraction=0.0, test_fraction=0.25, normalize=False)
        ((images, _),) = data.train_dataloader()
        assert images.shape == (3, 3, 16, 16)
        assert images.is_contiguous(memory_format=torch.channels_last)

    def test_the_middle_is_kept_as_it_is(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a" / "0.png", 5, size=(40, 16))
        write(tmp_path / "b" / "0.png", 6, size=(40, 16))
        data = made(tmp_path, resident=True, val_fraction=0.0, test_fraction=0.5)
        pixels = np.asarray(Image.open(path))[:, 12:28]
        both = torch.cat([data.train_dataloader().data.images, data.test_dataloader().data.images])
        assert any(np.array_equal(image.permute(1, 2, 0).numpy(), pixels) for image in both)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_normalised_training_images_have_mean_0_and_deviation_1(self, tmp_path: Path, channels: int) -> None:
        tree(tmp_path, {"a": 20, "b": 20}, size=(16, 16))
        data = made(tmp_path, in_channels=channels, augment=False)
        images = torch.cat([images for images, _ in data.train_dataloader()])
        assert torch.allclose(images.mean(dim=(0, 2, 3)), torch.zeros(channels), atol=1e-5)
        assert torch.allclose(images.std(dim=(0, 2, 3), correction=0), torch.ones(channels), atol=1e-5)

    def test_a_mean_that_is_given_is_used(self, tmp_path: Path) -> None:
        data = made(tree(tmp_path, {"a": 5, "b": 5}), mean=[0.5] * 3, std=[0.25] * 3)
        assert data.normalization == ((0.5,) * 3, (0.25,) * 3)
        plain = made(tmp_path, normalize=False)
        assert plain.normalization == ((0.0,) * 3, (1.0,) * 3)


SETTINGS: list[dict[str, Any]] = [{}, {"balance": True}, {"augment": False}, {"in_channels": 1}]


@pytest.mark.timeout(120)
class TestFromMemoryAndFromFiles:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tree(tmp_path / "set", {"a": 31, "b": 12, "c": 7}, size=(24, 20))

    @pytest.mark.parametrize(
        ("workers", "settings"),
        [
            *((0, settings) for settings in SETTINGS),
            (2, SETTINGS[0]),
            *(pytest.param(2, settings, marks=pytest.mark.slow) for settings in SETTINGS[1:]),  # starts processes
        ],
    )
    def test_batches_are_the_same_to_the_last_bit(self, root: Path, workers: int, settings: dict[str, Any]) -> None:
        memory, files = (
            made(root, resident=True, **settings),
            made(root, resident=False, num_workers=workers, **settings),
        )
        for one, other in zip(loaders(memory), loaders(files), strict=True):
            assert isinstance(one, BatchLoader)
            assert isinstance(other, FileLoader)
            for epoch in (0, 1):
                one.set_epoch(epoch)
                other.set_epoch(epoch)
                for (images, labels), (same, names) in zip(one, other, strict=True):
                    assert torch.equal(images, same)
                    assert torch.equal(labels, names)
                    assert images.stride() == same.stride()

    @pytest.mark.parametrize(
        ("device", "settings"),
        [
            ("cpu", {}),
            ("cpu", {"augment": False}),
            ("cpu", {"transform": torch.clone}),
            pytest.param("cuda", {}, marks=ON_GPU),
            pytest.param("cuda", {"augment": False}, marks=ON_GPU),
        ],
    )
    def test_a_device_finishes_what_workers_read(self, root: Path, device: str, settings: dict[str, Any]) -> None:
        """The batches are those of images in the device's memory, and cross the bus as uint8 where they can."""
        there = torch.device(device)
        expected = made(root, resident=True, **settings).train_dataloader()
        loader = made(root, resident=False, **settings).train_dataloader()
        kwargs = {name: getattr(loader, name) for name in ("augmentation", "batch_size", "seed", "normalization")}
        finishing = FileLoader(loader.pictures, num_workers=2, device=there, shuffle=True, **kwargs)
        memory = BatchLoader(expected.data.to(there), shuffle=True, **kwargs)
        for (images, labels), (same, names) in zip(finishing, memory, strict=True):
            assert images.device.type == labels.device.type == device
            assert torch.equal(images, same)
            assert torch.equal(labels, names)
        made_by_workers = next(iter(finishing._workers.map([Step(torch.arange(3), None)])))[0]
        assert made_by_workers.dtype == (torch.float32 if "transform" in settings else torch.uint8)

    def test_epochs_differ_and_training_differs_from_what_lies_there(self, root: Path) -> None:
        loader = made(root, resident=False).train_dataloader()
        first = torch.cat([images for images, _ in loader])
        loader.set_epoch(1)
        assert not torch.equal(first, torch.cat([images for images, _ in loader]))

    def test_auto_keeps_what_fits(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(made(root).train_dataloader(), BatchLoader)
        monkeypatch.setattr("arcface_pl.data.files.RESIDENT_LIMIT", 50 * 3 * 16 * 16 - 1)
        assert isinstance(made(root).train_dataloader(), FileLoader)
        monkeypatch.setattr("arcface_pl.data.files.RESIDENT_LIMIT", 50 * 3 * 16 * 16)
        assert isinstance(made(root).train_dataloader(), BatchLoader)

    def test_reading_leaves_the_global_generator_alone(self, root: Path) -> None:
        loader = made(root, resident=False, num_workers=2).train_dataloader()
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        for _ in loader:
            pass
        assert torch.equal(torch.rand(3), expected)

    def test_classes_come_equally_often(self, root: Path) -> None:
        data = made(root, resident=False, balance=True)
        labels = torch.cat([labels for _, labels in data.train_dataloader()])
        counts = torch.bincount(labels)
        assert int(counts.max() - counts.min()) <= 1
        assert int(counts.sum()) == data.num_train
        seen = torch.cat([labels for _, labels in data.test_dataloader()])
        assert len(seen) == data.num_test


@pytest.mark.timeout(120)
class TestUnreadable:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tree(tmp_path / "set", {"a": 20, "b": 20})
        (root / "a" / "broken.png").write_bytes((root / "a" / "000.png").read_bytes()[:300])
        (root / "a" / "empty.jpg").write_bytes(b"")
        (root / "b" / "text.png").write_text("no picture")
        return root

    @pytest.mark.parametrize(("resident", "workers"), [(True, 0), (False, 0), (False, 2)])
    def test_all_of_them_are_named_before_training(
        self, root: Path, resident: bool, workers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(image_files, "_CHUNK", 8)
        with pytest.raises(DataError) as raised:
            made(root, resident=resident, num_workers=workers)
        message = str(raised.value)
        assert message.startswith("3 of 43 images cannot be read")
        assert all(name in message for name in ("broken.png", "empty.jpg", "text.png"))
        assert message.endswith("To leave them out, set data.skip_unreadable true")

    @pytest.mark.parametrize("workers", [0, 2])
    def test_unchecked_the_first_one_that_is_met_is_named(self, root: Path, workers: int) -> None:
        data = made(root, resident=False, check_files=False, num_workers=workers, normalize=False)
        with pytest.raises(DataError, match=r"1 of 8 images cannot be read: .*broken.png"):
            list(data.train_dataloader())

    @pytest.mark.parametrize("resident", [True, False])
    def test_they_are_left_out_on_request(self, root: Path, resident: bool, caplog: pytest.LogCaptureFixture) -> None:
        data = made(root, resident=resident, skip_unreadable=True)
        assert data.num_train + data.num_val + data.num_test == 40
        assert sum(len(labels) for _, labels in data.train_dataloader()) == data.num_train
        assert "3 of 43 images cannot be read" in caplog.text
        assert "They are left out" in caplog.text

    def test_one_process_of_a_machine_looks_for_them(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The others find those that they are to leave out, without which they would have other data."""
        monkeypatch.setenv("LOCAL_RANK", "1")
        read: list[int] = []
        reader = image_files.ImageFiles.read
        monkeypatch.setattr(
            image_files.ImageFiles, "read", lambda files, indices: (read.extend(indices), reader(files, indices))[1]
        )
        made(root, resident=False, normalize=False, white_level=255)
        assert not read
        data = made(root, resident=False, normalize=False, white_level=255, skip_unreadable=True)
        assert len(read) == 43
        monkeypatch.setenv("LOCAL_RANK", "0")
        first = made(root, resident=False, normalize=False, white_level=255, skip_unreadable=True)
        assert (data.num_train, data._fingerprint) == (first.num_train, first._fingerprint)
        with pytest.raises(DataError, match=r"3 of 43 images cannot be read"):
            made(root, resident=False, normalize=False, white_level=255)

    @pytest.mark.parametrize(
        ("environment", "count"),
        [({}, 8), ({"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}, 5), ({"WORLD_SIZE": "24"}, 0)],
    )
    def test_processes_share_the_processors(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], count: int
    ) -> None:
        """Also before there is a Trainer to ask: with torchrun, or started by Lightning."""
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(24)), raising=False)
        assert ImageFolderDataModule(str(root))._processes == count

    @pytest.mark.parametrize(("chunk", "started"), [(43, 0), (42, 2), (11, 3)])
    def test_no_more_processes_are_started_than_have_work(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, started: int
    ) -> None:
        """One chunk is read sooner than a process is started."""
        seen: list[int] = []

        def workers(function: Any, num_workers: int) -> Workers:
            seen.append(num_workers)
            return Workers(function, 0)

        monkeypatch.setattr(image_files, "_CHUNK", chunk)
        monkeypatch.setattr(image_files, "Workers", workers)
        classes = class_folders(root)
        preprocessor = Preprocessor(16, 3, (0.0,) * 3, (1.0,) * 3, style="picture")
        files = image_files.ImageFiles(root, find_images(root, classes, list(classes)), preprocessor)
        assert len(files.unreadable(3)) == 3
        assert seen == [started]

    def test_many_are_counted(self, tmp_path: Path) -> None:
        root = tree(tmp_path / "set", {"a": 5, "b": 5})
        for number in range(30):
            (root / "a" / f"bad{number:02d}.png").write_bytes(b"x")
        with pytest.raises(DataError, match=r"30 of 40 images cannot be read: .*and 20 more"):
            made(root, resident=True)

    def test_nothing_is_left(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "x.png").write_bytes(b"x")
        with pytest.raises(
            DataError, match=r"data.root .*: got 'no training images that can be read'; expected at least one"
        ):
            made(tmp_path, skip_unreadable=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 3}, "image_size.*got 3"),
        ({"image_size": 100_000}, "image_size: got 100000; expected at most"),
        ({"num_workers": 100_000}, "num_workers: got 100000; expected at most 1024 processes"),
        ({"in_channels": 4}, "in_channels: got 4"),
        ({"test_fraction": 0.0}, "test_fraction.*got 0.0"),
        ({"val_fraction": 1.0}, "val_fraction.*got 1.0"),
        ({"num_workers": -1}, "num_workers.*got -1"),
        ({"resident": "yes"}, "resident: got 'yes'"),
        ({"mean": [0.5] * 3}, "mean: got .*expected mean and std both, or neither"),
        ({"mean": [0.5], "std": [0.5]}, "mean: got .*expected 3 numbers"),
        ({"mean": [0.5] * 3, "std": [0.5, 0.5, 0.0]}, "std: got .*expected numbers above 0"),
        ({"color": 1.0}, "color.*got 1.0"),
        (
            {"skip_unreadable": True, "check_files": False},
            "skip_unreadable: got True; expected false, or check_files true",
        ),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolderDataModule("images", **settings)


def test_a_machine_of_many_cores_gets_eight_workers_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(96), raising=False)
    assert [ImageFolderDataModule("images", num_workers=given)._processes for given in (None, 20)] == [8, 20]
