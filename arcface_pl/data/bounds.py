"""Bounds of the whole numbers that data modules take, the same in all of them."""

from arcface_pl.checkpoints.network import LARGEST_IMAGE
from arcface_pl.errors import expected
from arcface_pl.functional.checks import check_count

LARGEST_BATCH = 2**31 - 1

_BOUNDS = {
    "batch_size": (1, LARGEST_BATCH, " images"),
    "eval_batch_size": (1, LARGEST_BATCH, " images"),
    "image_size": (4, LARGEST_IMAGE, " pixels"),
    "num_workers": (0, 1024, " processes"),  # starting a hundred thousand takes minutes, and then fails
    "seed": (0, 2**64 - 1, ""),  # what torch takes
}


def check_bounds(**settings: int) -> None:
    """Check settings of a data module by name.

    Raises:
        ValueError: If one is not a whole number within its bounds.
    """
    for name, value in settings.items():
        low, high, unit = _BOUNDS[name]
        check_count(name, value, low=low)
        if value > high:
            raise ValueError(expected(name, value, f"at most {high}{unit}"))
