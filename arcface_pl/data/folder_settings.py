"""Checks of the settings that only a folder of images has."""

from typing import Any

__all__ = ["check_images", "check_reading"]


def check_images(image_size: int, in_channels: int, mean: list[float] | None, std: list[float] | None) -> None:
    """Check what images are to be like.

    Raises:
        ValueError: If a value is out of range.
    """
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 4:
        raise ValueError(f"image_size: got {image_size!r}, accepts a whole number of at least 4")
    if in_channels not in (1, 3):
        raise ValueError(f"in_channels: got {in_channels!r}, accepts 1 for grey or 3 for colour")
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std: got {mean!r} and {std!r}, accepts both or neither")
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != in_channels:
            raise ValueError(f"{name}: got {values!r}, accepts {in_channels} numbers, one for each channel")
    if std is not None and min(std) <= 0:
        raise ValueError(f"std: got {std!r}, accepts numbers above 0")


def check_reading(num_workers: int | None, check_files: bool, skip_unreadable: bool, resident: Any) -> None:
    """Check how images are to be read and kept.

    Raises:
        ValueError: If a value is out of range, or two of them exclude each other.
    """
    if num_workers is not None and num_workers < 0:
        raise ValueError(f"num_workers: got {num_workers!r}, accepts a whole number of at least 0, or null")
    if skip_unreadable and not check_files:
        raise ValueError("skip_unreadable: got true, which needs check_files: true to know what to leave out")
    if resident not in ("auto", True, False):
        raise ValueError(f"resident: got {resident!r}, accepts auto, true or false")
