import gzip
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from loopback import Server
from made_up import MadeUp

from arcface_pl.data import DataError, MNISTDataModule
from arcface_pl.data.sources.catalog import CATALOG, DatasetSpec
from arcface_pl.data.sources.digits import load_digits

GENUINE = os.path.abspath(os.environ["ARCFACE_PL_DATA_DIR"]) if os.environ.get("ARCFACE_PL_DATA_DIR") else ""
needs = {
    folder: pytest.mark.skipif(
        not (Path(GENUINE) / folder / "raw").is_dir() or not GENUINE,
        reason=f"$ARCFACE_PL_DATA_DIR holds no {folder}/raw",
    )
    for folder in ("MNIST", "FashionMNIST", "KMNIST")
}


@pytest.fixture
def mnist(made_up: MadeUp, use: Callable[[DatasetSpec], None], tmp_path: Path) -> MNISTDataModule:
    """The made-up data set, ready to load."""
    use(made_up.spec)
    made_up.write(tmp_path / "data")
    return MNISTDataModule(batch_size=32)


def ready(data: MNISTDataModule) -> MNISTDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


class TestBeforeAnyFileIsThere:
    @pytest.mark.parametrize("dataset", ["auto", "mnist", "fashion_mnist", "kmnist", "digits"])
    def test_grey_sets(self, dataset: str) -> None:
        data = MNISTDataModule(dataset=dataset)
        assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, 28)
        assert len(data.class_names) == 10
        mean, std = data.normalization
        assert 0.1 < mean[0] < 0.3 < std[0] + 0.01 < 0.37

    def test_auto_answers_with_the_digits_names(self) -> None:
        assert MNISTDataModule().class_names == list("0123456789")

    def test_cifar10(self) -> None:
        data = MNISTDataModule(dataset="cifar10")
        assert (data.num_classes, data.in_channels, data.image_size) == (10, 3, 32)
        assert data.class_names[3] == "cat"
        assert [len(values) for values in data.normalization] == [3, 3]

    def test_without_normalisation(self) -> None:
        data = MNISTDataModule(dataset="cifar10", normalize=False)
        assert data.normalization == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def test_what_auto_is_and_how_many_images_there_are_is_not_known(self) -> None:
        data = MNISTDataModule()
        with pytest.raises(RuntimeError, match=r"in prepare_data\(\)"):
            _ = data.dataset_name
        with pytest.raises(RuntimeError, match=r"prepare_data\(\) and setup\(\)"):
            _ = data.num_train
        assert MNISTDataModule(dataset="kmnist").dataset_name == "kmnist"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size.*got 0"),
        ({"batch_size": 2.5}, "batch_size.*got 2.5"),
        ({"batch_size": True}, "batch_size.*got True"),
        ({"eval_batch_size": -1}, "eval_batch_size.*got -1"),
        ({"val_fraction": 1.0}, "val_fraction.*got 1.0"),
        ({"val_fraction": -0.1}, "val_fraction.*got -0.1"),
        ({"val_fraction": float("nan")}, "val_fraction.*got nan"),
        ({"seed": -1}, "seed.*got -1"),
        ({"rotation": 181.0}, "rotation.*got 181.0"),
        ({"shift": -1.0}, "shift.*got -1.0"),
        ({"zoom": 1.5}, "zoom.*got 1.5"),
        ({"dataset": "emnist"}, "dataset.*digits.*"),
        ({"data_dir": ""}, "data_dir: got ''; expected the name of a folder"),
    ],
)
def test_impossible_values_are_refused_before_any_work(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MNISTDataModule(**arguments)


def test_hyperparameters_are_plain_values(tmp_path: Path) -> None:
    hyperparameters = dict(MNISTDataModule(data_dir=tmp_path, dataset="digits", seed=3).hparams)
    assert all(isinstance(value, (int, float, str, bool, type(None))) for value in hyperparameters.values())
    torch.save(hyperparameters, tmp_path / "h.pt")
    again = MNISTDataModule(**torch.load(tmp_path / "h.pt", weights_only=True))
    assert dict(again.hparams) == hyperparameters


class TestParts:
    def test_sizes_and_counts(self, mnist: MNISTDataModule) -> None:
        ready(mnist)
        assert (mnist.dataset_name, mnist.fell_back) == ("mnist", False)
        assert (mnist.num_train, mnist.num_val, mnist.num_test) == (108, 12, 30)
        assert sum(mnist.class_counts) == 108
        assert min(mnist.class_counts) >= 10

    def test_train_and_val_are_disjoint_parts_of_the_training_images(
        self, mnist: MNISTDataModule, made_up: MadeUp
    ) -> None:
        ready(mnist)
        mnist.augmentation, mnist.normalize = None, False
        parts = [
            torch.cat([images for images, _ in part]) for part in (mnist.train_dataloader(), mnist.val_dataloader())
        ]
        both = torch.cat(parts).flatten(1)
        assert len(both.unique(dim=0)) == 120
        expected = (made_up.images[0] / 255).flatten(1)
        assert torch.equal(both.sort(dim=0).values, expected.sort(dim=0).values)

    def test_test_and_predict_serve_the_test_images_in_order(self, mnist: MNISTDataModule, made_up: MadeUp) -> None:
        ready(mnist)
        for batches in (mnist.test_dataloader(), mnist.predict_dataloader()):
            assert torch.equal(torch.cat([labels for _, labels in batches]), made_up.labels[1].long())

    def test_pictures_of_the_validation_part(self, mnist: MNISTDataModule) -> None:
        ready(mnist)
        assert mnist.val_images.shape == (12, 1, 28, 28)
        assert mnist.val_images.dtype == torch.uint8
        _, labels = next(iter(mnist.val_dataloader()))
        assert torch.equal(labels, mnist.val_labels)

    def test_without_a_validation_part(self, mnist: MNISTDataModule) -> None:
        mnist.val_fraction = 0
        ready(mnist)
        assert mnist.val_dataloader() == []
        assert mnist.num_train == 120
        assert len(mnist.val_images) == 30

    def test_watching_the_test_set(self, mnist: MNISTDataModule, made_up: MadeUp) -> None:
        assert mnist.val_prefix == "val"
        mnist.watch_test, mnist.val_fraction = True, 0
        ready(mnist)
        assert mnist.val_prefix == "test"
        assert mnist.num_train == 120
        assert torch.equal(torch.cat([labels for _, labels in mnist.val_dataloader()]), made_up.labels[1].long())

    def test_the_seed_is_the_runs_unless_it_is_given(
        self, made_up: MadeUp, mnist: MNISTDataModule, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def split(seed: int | None) -> list[int]:
            return ready(MNISTDataModule(seed=seed)).val_images.flatten(1)[:, 400].tolist()

        default = split(None)
        assert default == split(0)
        monkeypatch.setenv("PL_GLOBAL_SEED", "7")
        assert split(None) == split(7) != default

    def test_augmentation_is_for_training_only(self, mnist: MNISTDataModule) -> None:
        ready(mnist)
        assert mnist.train_dataloader().augmentation is not None
        assert mnist.val_dataloader().augmentation is None
        assert mnist.test_dataloader().augmentation is None

    @pytest.mark.parametrize("off", [{"augment": False}, {"rotation": 0.0, "shift": 0.0, "zoom": 0.0}])
    def test_augmentation_off_leaves_images_as_they_are(
        self, mnist: MNISTDataModule, made_up: MadeUp, off: dict[str, object]
    ) -> None:
        data = ready(MNISTDataModule(val_fraction=0, normalize=False, **off))
        seen = torch.cat([images for images, _ in data.train_dataloader()]).flatten(1)
        expected = (made_up.images[0] / 255).flatten(1)
        assert torch.equal(seen.sort(dim=0).values, expected.sort(dim=0).values)


class TestFallingBack:
    def test_auto_takes_the_digits_with_a_warning_nobody_can_miss(self, caplog: pytest.LogCaptureFixture) -> None:
        data = MNISTDataModule()
        data.prepare_data()
        assert (data.dataset_name, data.fell_back) == ("digits", True)  # known before the images are read
        data.setup("fit")
        assert (data.dataset_name, data.fell_back) == ("digits", True)
        assert (data.num_train, data.num_val, data.num_test) == (1294, 144, 359)
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert "WARNING" in record.message
        assert "NOT on MNIST" in record.message
        assert CATALOG["mnist"].files[0].md5 in record.message

    def test_preparing_again_neither_tries_nor_warns_again(
        self, made_up: MadeUp, server: Server, use: Callable[[DatasetSpec], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        use(replace(made_up.spec, mirrors=(server.mirror("503"),)))
        data = MNISTDataModule()
        for _ in range(3):
            ready(data)
        assert len(server.requests) == len(caplog.records) == 1
        assert "HTTP 503" in caplog.text

    def test_other_processes_of_the_machine_only_look(
        self,
        made_up: MadeUp,
        server: Server,
        use: Callable[[DatasetSpec], None],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        use(replace(made_up.spec, mirrors=(server.mirror("good"),)))
        monkeypatch.setenv("LOCAL_RANK", "1")
        data = MNISTDataModule()
        data.prepare_data()
        assert server.requests == []
        assert caplog.records == []
        made_up.write(tmp_path / "data")  # the first process was slower
        data.setup()
        assert data.dataset_name == "mnist"

    def test_auto_downloads_mnist_where_it_can(
        self, made_up: MadeUp, server: Server, use: Callable[[DatasetSpec], None]
    ) -> None:
        use(replace(made_up.spec, mirrors=(server.mirror("good"),)))
        data = ready(MNISTDataModule(data_dir="some/where"))
        assert (data.dataset_name, data.fell_back, data.num_test) == ("mnist", False, 30)
        assert Path("some/where/MNIST/raw").is_dir()

    def test_a_damaged_file_is_an_error_not_a_reason_to_fall_back(
        self, made_up: MadeUp, mnist: MNISTDataModule
    ) -> None:
        path = Path("data/MNIST/raw") / made_up.spec.files[2].name
        path.write_bytes(path.read_bytes()[:-30])
        mnist.prepare_data()
        with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz: expected a complete gzip file"):
            mnist.setup("fit")

    def test_an_explicit_set_fails_with_reason_folder_names_and_checksums(
        self, made_up: MadeUp, server: Server, use: Callable[[DatasetSpec], None]
    ) -> None:
        use(replace(made_up.spec, mirrors=(server.mirror("403"),)))
        with pytest.raises(DataError) as caught:
            MNISTDataModule(dataset="mnist").prepare_data()
        message = str(caught.value)
        for wanted in (
            "HTTP 403",
            "data/MNIST/raw",
            *(text for file in made_up.spec.files for text in (file.name, file.md5)),
        ):
            assert wanted in message

    def test_an_explicit_set_fails_at_setup_where_nothing_was_prepared(self) -> None:
        with pytest.raises(DataError, match=r"prepare_data\(\) was not called"):
            MNISTDataModule(dataset="kmnist").setup()


class TestDigits:
    def test_they_are_framed_like_mnist(self) -> None:
        train, test = load_digits()
        images = torch.cat((train.images, test.images))
        assert len(images) == 1797
        border = images.clone()
        border[:, :, 4:24, 4:24] = 0
        assert not border.any()
        assert images.max() == 255
        spec = CATALOG["digits"]
        assert (len(train.labels), len(test.labels)) == (spec.num_train, spec.num_test)
        pixels = train.images / 255
        assert abs(pixels.mean() - spec.mean[0]) < 1e-4
        assert abs(pixels.std() - spec.std[0]) < 1e-4

    def test_the_parts_are_stratified_disjoint_and_the_same_for_every_seed(self) -> None:
        train, test = load_digits()
        share = torch.bincount(test.labels) / torch.bincount(torch.cat((train.labels, test.labels)))
        assert (share - 0.2).abs().max() < 0.01
        digits = [ready(MNISTDataModule(dataset="digits", seed=seed)) for seed in (0, 1)]
        tests = [torch.cat([labels for _, labels in data.test_dataloader()]) for data in digits]
        assert torch.equal(*tests)
        assert not torch.equal(digits[0].val_labels, digits[1].val_labels)


@needs["MNIST"]
class TestGenuine:
    @pytest.fixture(autouse=True)
    def where_it_is(self, nowhere_else: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ARCFACE_PL_DATA_DIR", GENUINE)

    def test_mnist(self) -> None:
        data = ready(MNISTDataModule())
        assert (data.dataset_name, data.num_train, data.num_val, data.num_test) == ("mnist", 54_000, 6_000, 10_000)
        whole = [data.train_dataloader(), data.val_dataloader()]
        counts = torch.bincount(torch.cat([labels for part in whole for _, labels in part]))
        assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert (torch.bincount(data.val_labels) - counts / 10).abs().max() < 1
        _, labels = next(iter(data.test_dataloader()))
        assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
        assert not Path("data").exists(), "a folder that holds the files is only read"

    @pytest.mark.parametrize("dataset", ["mnist", pytest.param("fashion_mnist", marks=needs["FashionMNIST"])])
    def test_they_are_torchvisions_and_the_statistics_are_theirs(self, dataset: str, tmp_path: Path) -> None:
        from torchvision.datasets import MNIST, FashionMNIST

        theirs = {"mnist": MNIST, "fashion_mnist": FashionMNIST}[dataset]
        spec = CATALOG[dataset]
        folder = tmp_path / spec.folder
        folder.mkdir(parents=True)
        for file in spec.files:
            content = gzip.decompress((Path(GENUINE) / spec.folder / file.name).read_bytes())
            (folder / file.name.removesuffix(".gz")).write_bytes(content)
        for part, is_train in zip(
            MNISTDataModule(dataset=dataset, data_dir=str(tmp_path)).load(), (True, False), strict=True
        ):
            reference = theirs(str(tmp_path), train=is_train)
            assert torch.equal(part.images[:, 0], reference.data)
            assert torch.equal(part.labels, reference.targets)
            if is_train:
                pixels = part.images.double() / 255
                assert abs(pixels.mean() - spec.mean[0]) < 1e-4
                assert abs(pixels.std() - spec.std[0]) < 1e-4
