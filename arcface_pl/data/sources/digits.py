"""The 1,797 handwritten digits of scikit-learn, framed like MNIST: the fallback if MNIST cannot be downloaded."""

import functools

import torch
import torch.nn.functional as F

from arcface_pl.data.labelled import LabelledImages
from arcface_pl.data.split import stratified_split

_TEST_FRACTION = 0.2


def load_digits() -> tuple[LabelledImages, LabelledImages]:
    """Load scikit-learn's digits as 28 x 28 images.

    The 8 x 8 values from 0 to 16 become 20 x 20 pixels in the center of a 28 x 28 image, as in MNIST. The test part is
    a stratified fifth, the same for every seed, so that runs can be compared.

    Returns:
        1,438 training images and 359 test images.
    """
    digits = _digits()
    train, test = stratified_split(digits.labels, _TEST_FRACTION, seed=0)
    return digits.select(train), digits.select(test)


@functools.cache
def _digits() -> LabelledImages:
    """Read and frame all of them, once per process: they are text, and a process may load them for several runs."""
    from sklearn import datasets  # takes a second to import

    bunch = datasets.load_digits()
    small = torch.from_numpy(bunch.images).float().unsqueeze(1) * (255 / 16)
    large = F.interpolate(small, size=(20, 20), mode="bicubic", align_corners=False).clamp(0, 255)
    return LabelledImages(F.pad(large, (4, 4, 4, 4)).round().to(torch.uint8), torch.from_numpy(bunch.target).long())
