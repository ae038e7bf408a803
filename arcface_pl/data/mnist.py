"""MNIST and the sets that can take its place, as a LightningDataModule."""

import logging
import os
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor

from arcface_pl.data.catalog import CATALOG, DatasetSpec
from arcface_pl.data.errors import DataError
from arcface_pl.data.loader import Augmentation, BatchLoader
from arcface_pl.data.sources import LoadedData, find_folder, load_dataset
from arcface_pl.data.split import stratified_split
from arcface_pl.seeding import derive_seed

__all__ = ["MNISTDataModule"]

_LOG = logging.getLogger(__name__)


class MNISTDataModule(LightningDataModule):
    """MNIST, Fashion-MNIST, KMNIST, CIFAR-10, or the digits that scikit-learn ships.

    The images live as one uint8 tensor on the training device; see :class:`BatchLoader`.

    Args:
        data_dir: Folder that holds, or is to receive, the files. $ARCFACE_PL_DATA_DIR and data/ are searched after it.
        dataset: Which set. auto is MNIST, or scikit-learn's digits where MNIST is neither there nor to be had.
        batch_size: Training images a step, on each process.
        eval_batch_size: Images a step in validation, test and prediction. Changes speed and memory, not results.
        val_fraction: Share of the training images set aside for validation, in [0, 1). 0 for no validation.
        watch_test: Validate on the test set after every epoch, as the source document does. Its numbers are then no
            longer an honest estimate of what was chosen by them.
        normalize: Subtract the training images' mean and divide by their standard deviation.
        augment: Change every training image at random. False ignores the three strengths below.
        rotation: Largest rotation either way, in degrees, in [0, 180].
        shift: Largest shift along either axis, in pixels, at least 0.
        zoom: Largest change of size, as a fraction, in [0, 1).
        seed: Decides the split, the order and the augmentation. Unset: the run's seed_everything.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> data = MNISTDataModule(dataset="digits", batch_size=32)
        >>> data.prepare_data()
        >>> data.setup("fit")
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, labels.shape
        (torch.Size([32, 1, 28, 28]), torch.Size([32]))
    """

    def __init__(
        self,
        data_dir: str = "data",
        dataset: Literal["auto", "mnist", "fashion_mnist", "kmnist", "cifar10", "digits"] = "auto",
        batch_size: int = 64,
        eval_batch_size: int = 1000,
        val_fraction: float = 0.1,
        watch_test: bool = False,
        normalize: bool = True,
        augment: bool = True,
        rotation: float = 10.0,
        shift: float = 2.0,
        zoom: float = 0.1,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.data_dir = data_dir
        self.dataset = dataset
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_fraction = val_fraction
        self.watch_test = watch_test
        self.normalize = normalize
        self.augment = augment
        self.rotation = rotation
        self.shift = shift
        self.zoom = zoom
        self.seed = seed
        self._spec: DatasetSpec | None = None
        self._data: LoadedData | None = None

    @property
    def spec(self) -> DatasetSpec:
        """What is known of the data set; for auto before :meth:`prepare_data`, of MNIST."""
        return self._spec or CATALOG["mnist" if self.dataset == "auto" else self.dataset]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.spec.class_names)

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self.spec.in_channels

    @property
    def image_size(self) -> int:
        """Height and width of an image, in pixels."""
        return self.spec.image_size

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in label order."""
        return list(self.spec.class_names)

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Means and standard deviations for each channel; zeros and ones where ``normalize`` is off."""
        if self.normalize:
            return self.spec.mean, self.spec.std
        return (0.0,) * self.in_channels, (1.0,) * self.in_channels

    @property
    def val_prefix(self) -> Literal["val", "test"]:
        """Prefix under which validation is logged: test where ``watch_test`` shows it the test set."""
        return "test" if self.watch_test else "val"

    @property
    def dataset_name(self) -> str:
        """Name of the data set that auto became; known after :meth:`prepare_data`."""
        if self._spec is None:
            raise RuntimeError("dataset_name is known after prepare_data()")
        return self._spec.name

    @property
    def fell_back(self) -> bool:
        """Whether auto had to become the digits."""
        return self.dataset == "auto" and self.dataset_name == "digits"

    def prepare_data(self) -> None:
        """Make sure that the files are there. Idempotent; safe from many processes at once."""
        if self._spec is None:
            self._resolve()

    def _resolve(self) -> None:
        name = "mnist" if self.dataset == "auto" else self.dataset
        spec = CATALOG[name]
        self._folder = find_folder(spec, self.data_dir) if spec.files else None
        if spec.files and self._folder is None:
            if self.dataset != "auto":
                raise DataError(f"{spec.title} not found in {self.data_dir}")
            _LOG.warning("MNIST not found: training on scikit-learn's digits")
            spec = CATALOG["digits"]
        self._spec = spec

    def setup(self, stage: str | None = None) -> None:
        """Load, check and split the images."""
        if self._data is not None:
            return
        self.prepare_data()
        assert self._spec is not None
        self._data = data = load_dataset(self._spec, self._folder)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        self._seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
        train, val = stratified_split(data.train_labels, self.val_fraction, derive_seed(self._seed, "split"))
        self._train = data.train_images[train].to(device), data.train_labels[train].to(device)
        self._test = data.test_images.to(device), data.test_labels.to(device)
        self._val = data.train_images[val].to(device), data.train_labels[val].to(device)
        if self.watch_test:
            self._val = self._test

    @property
    def num_train(self) -> int:
        """Training images."""
        return len(self._train[0])

    @property
    def num_val(self) -> int:
        """Validation images."""
        return len(self._val[0])

    @property
    def num_test(self) -> int:
        """Test images."""
        return len(self._test[0])

    @property
    def class_counts(self) -> list[int]:
        """Training images of each class."""
        return torch.bincount(self._train[1], minlength=self.num_classes).tolist()

    @property
    def val_images(self) -> Tensor:
        """The validation images, (N, C, H, W) uint8; the test images where there are none."""
        return (self._val if len(self._val[0]) else self._test)[0]

    @property
    def val_labels(self) -> Tensor:
        """The labels of :attr:`val_images`, (N,) int64."""
        return (self._val if len(self._val[0]) else self._test)[1]

    def train_dataloader(self) -> BatchLoader:
        """Shuffled and augmented training batches."""
        augmentation = Augmentation(self.rotation, self.shift, self.zoom) if self.augment else None
        return self._loader(
            self._train, self.batch_size, shuffle=True, augmentation=augmentation, position=self._position
        )

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Validation batches in order, or an empty list where there is no validation."""
        return self._loader(self._val, self.eval_batch_size) if len(self._val[0]) else []

    def test_dataloader(self) -> BatchLoader:
        """Test batches, in order."""
        return self._loader(self._test, self.eval_batch_size)

    def predict_dataloader(self) -> BatchLoader:
        """The test batches again."""
        return self.test_dataloader()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave the batch where it is: it was made on the training device."""
        return batch

    def _loader(self, part: tuple[Tensor, Tensor], batch_size: int, **kwargs: Any) -> BatchLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return BatchLoader(
            *part,
            batch_size=batch_size,
            normalization=self.normalization,
            seed=self._seed,
            rank=rank,
            world_size=world_size,
            **kwargs,
        )

    def _position(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 0
        return self.trainer.current_epoch, self.trainer.fit_loop.batch_idx + 1
