"""Data sets, the batch loader and the LightningDataModules."""

from arcface_pl.data.errors import DataError
from arcface_pl.data.loader import Augmentation, BatchLoader
from arcface_pl.data.mnist import MNISTDataModule

__all__ = ["Augmentation", "BatchLoader", "DataError", "MNISTDataModule"]
