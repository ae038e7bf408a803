"""The pixel value of white in images of more than 8 bits per channel."""

import numpy as np

# Where nothing else is known
WHITE_INTEGER, WHITE_FLOAT = 65_535.0, 1.0


def likely_level(is_float: bool, maxima: list[float]) -> float:
    """Choose the level of a data set by the largest values of its images."""
    if is_float:
        typical = float(np.median(maxima))
        return next((level for level in (WHITE_FLOAT, 255.0, WHITE_INTEGER) if typical <= 2 * level), typical)
    levels = (255.0, 1023.0, 4095.0, 16_383.0, WHITE_INTEGER)
    return next((level for level in levels if max(maxima) <= level), max(maxima))


def check_16_bits(values: np.ndarray) -> None:
    """Raise ValueError if integers whose white is taken for 65,535 are of 8 bits, which would be black."""
    if 0 < values.max(initial=0) <= 255:
        raise ValueError(f"integers up to {values.max():g}, which are black where 65,535 is white. Convert to 8 bits")


def to_8_bits(values: np.ndarray, white: float) -> np.ndarray:
    """Scale pixel values so that ``white`` becomes 255; raises ValueError if most of them are outside."""
    if not np.isfinite(values).all():
        raise ValueError("some pixels are not finite numbers")
    # The second median is of what is not ground: most of a drawing on black is 0
    for middle in (np.median(values), np.median(values[values != 0]) if values.any() else 0):
        if not 0 <= middle <= white:
            remedy = ". Divide by 255, or give uint8" if white == 1 < middle <= 255 else ""
            raise ValueError(f"pixel values around {middle:g}, outside 0 (black) to {white:g} (white){remedy}")
    return (values * (255 / white)).clip(0, 255).round().astype(np.uint8)
