"""The files of a loader's images, where they come from files."""

from typing import Any

import torch


def paths_of(loader: Any) -> list[str] | None:
    """Return the path of each image of a loader that yields them in order; None if they are not files.

    Args:
        loader: A loader of this package, or a DataLoader over a data set with a list of ``samples``, as torchvision's
            ``ImageFolder`` has.
    """
    source = getattr(getattr(loader, "data", None), "source", None) or getattr(loader, "pictures", None)
    if source is not None:
        names = source.files.names(torch.arange(len(source.labels)))
        return [str(source.root / name) for name in names]
    samples = getattr(getattr(loader, "dataset", None), "samples", None)
    in_order = isinstance(getattr(loader, "sampler", None), torch.utils.data.SequentialSampler)
    if not in_order or not isinstance(samples, list) or not all(isinstance(each, tuple) for each in samples):
        return None
    return [str(each[0]) for each in samples]
