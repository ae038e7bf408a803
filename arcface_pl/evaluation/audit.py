"""Judge the labels of a data module by one trained network, or each image by one that has not seen it."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler

from arcface_pl.data import ImageDataModule
from arcface_pl.data.paths import paths_of
from arcface_pl.data.protocol import first_loader, in_rgb, labelled
from arcface_pl.errors import DataError, expected
from arcface_pl.evaluation.label_noise import LabelAngles, folds_of, label_angles, thumbnails
from arcface_pl.evaluation.measure import embed
from arcface_pl.heads import Head


@dataclass(frozen=True)
class AuditedImages:
    """Images whose labels are audited, of one or more splits of a data module, in the order of their loaders.

    Attributes:
        loaders: Batches in order, without random changes, by split.
        splits: Split of each image.
        paths: Path of each image; its number in the split if it is not a file.
        labels: (N,) int64.
        small: (N, P) from `thumbnails`.
        digests: Checksum of each image.
        data: The data module.
    """

    loaders: dict[str, Any]
    splits: list[str]
    paths: list[str]
    labels: Tensor
    small: Tensor
    digests: list[bytes]
    data: Any = None

    @classmethod
    def of(cls, data: Any, splits: Iterable[str] = ("train", "val", "test")) -> "AuditedImages":
        """Read the images of a data module, after ``setup``; splits that it lacks are left out.

        Raises:
            DataError: If it has none of the splits, or batches without labels.
        """
        wanted = tuple(splits)
        loaders = {split: loader for split in wanted if (loader := _loader_of(data, split)) is not None}
        if not loaders:
            accepted = f"a data module with {' or '.join(wanted)} images"
            raise DataError(expected("data", f"{type(data).__name__} without any", accepted))
        names: list[str] = []
        paths: list[str] = []
        labels, small, digests = [], [], []
        for split, loader in loaders.items():
            for images, numbers in map(labelled, loader):
                labels.append(numbers.long().cpu())
                small.append(thumbnails(images).cpu())
                digests += [
                    hashlib.blake2b(each.contiguous().numpy().data, digest_size=16).digest() for each in images.cpu()
                ]
            count = len(digests) - len(names)
            names += [split] * count
            paths += paths_of(loader) or list(map(str, range(count)))
        return cls(loaders, names, paths, torch.cat(labels), torch.cat(small), digests, data)

    def images(self, chosen: Iterable[int]) -> Tensor:
        """Read images again by index, (M, C, H, W), as the network sees them but in RGB."""
        places = list(chosen)
        found: dict[int, Tensor] = {}
        wanted, start = set(places), 0
        for loader in self.loaders.values():
            for images, _ in map(labelled, loader):
                found |= {start + i: each.cpu() for i, each in enumerate(images) if start + i in wanted}
                start += len(images)
        return in_rgb(self.data, torch.stack([found[place] for place in places]))

    def embed(self, network: Callable[[Tensor], Tensor], device: torch.device | str = "cpu") -> Tensor:
        """Embed all images, (N, D); see `arcface_pl.evaluation.measure.embed`."""
        return torch.cat([embed(network, loader, device).embeddings for loader in self.loaders.values()])


def cross_fit(
    data: ImageDataModule,
    audited: AuditedImages,
    folds: int,
    fit: Callable[[ImageDataModule], tuple[nn.Module, Head]],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> LabelAngles:
    """Judge each training image by a network that was trained without it (Northcutt et al., Confident Learning, 2021).

    Training images are dealt out to folds; for each fold, a network trains on the others and judges it. Images of other
    splits are dealt out too, since no network has seen them.

    Args:
        data: The data module, after ``setup``.
        audited: Its images, those of the training split among them.
        folds: Number of networks, at least 2.
        fit: Trains a new network on a data module; returns backbone and head.
        seed: Seed of the folds.
        device: Where images are embedded.

    Returns:
        Angles per image. An image has no target angle if its class is in no other fold.
    """
    fold, in_train = torch.empty_like(audited.labels), torch.tensor([split == "train" for split in audited.splits])
    for split in audited.loaders:
        chosen = torch.tensor([each == split for each in audited.splits])
        fold[chosen] = folds_of(audited.labels[chosen], folds, seed)
    angles: LabelAngles | None = None
    for number in range(folds):
        kept = (fold[in_train] != number).nonzero().flatten()
        backbone, head = (part.eval().to(device) for part in fit(data.training_on(kept)))
        found = label_angles(audited.embed(backbone, device), audited.labels, head.cpu())  # type: ignore[arg-type]
        seen = torch.bincount(audited.labels[in_train][kept], minlength=data.num_classes)
        found.target[seen[audited.labels] == 0] = torch.nan
        angles = found if angles is None else angles.where(fold == number, found)
    assert angles is not None
    return angles


def _loader_of(data: Any, split: str) -> Any:
    """Return a split's batches in order, without random changes as far as this package makes them; None without any."""
    if isinstance(data, ImageDataModule):
        if not getattr(data, f"num_{split}"):
            return None
        return data.train_sample_dataloader() if split == "train" else getattr(data, f"{split}_dataloader")()
    loader = first_loader(data, split)
    sized = isinstance(loader, DataLoader) and hasattr(loader.dataset, "__len__")
    if sized and not isinstance(loader.sampler, SequentialSampler):
        how = {"num_workers": loader.num_workers, "collate_fn": loader.collate_fn}
        loader = DataLoader(loader.dataset, loader.batch_size or 1, **how)
    return loader
