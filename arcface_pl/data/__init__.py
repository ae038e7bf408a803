"""Data sets, batch loaders and LightningDataModules."""

from arcface_pl.data.augment import Augmentation
from arcface_pl.data.base import ImageDataModule
from arcface_pl.data.folder import ImageFolderDataModule
from arcface_pl.data.labelled import LabelledImages
from arcface_pl.data.loader import BatchLoader
from arcface_pl.data.mnist import MNISTDataModule
from arcface_pl.data.omniglot import OmniglotDataModule
from arcface_pl.data.pairs import Pairs, PairsDataModule
from arcface_pl.data.record import RecordDataModule
from arcface_pl.data.table import TableDataModule
from arcface_pl.errors import DataError

__all__ = [
    "Augmentation",
    "BatchLoader",
    "DataError",
    "ImageDataModule",
    "ImageFolderDataModule",
    "LabelledImages",
    "MNISTDataModule",
    "OmniglotDataModule",
    "Pairs",
    "PairsDataModule",
    "RecordDataModule",
    "TableDataModule",
]
