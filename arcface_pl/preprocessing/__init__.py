"""Reading images and turning them into the network's input."""

from arcface_pl.preprocessing.decoding import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    ImageError,
    from_array,
    from_pil,
    is_image,
    left_out,
    measure_white_level,
    read_image,
)
from arcface_pl.preprocessing.framing import fit_image
from arcface_pl.preprocessing.normalize import ChannelOrder, Normalization, in_order, normalize_images
from arcface_pl.preprocessing.preprocessor import STYLES, Preprocessor, check_channel_order, style_of_dataset

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "STYLES",
    "ChannelOrder",
    "ImageError",
    "Normalization",
    "Preprocessor",
    "check_channel_order",
    "fit_image",
    "from_array",
    "from_pil",
    "in_order",
    "is_image",
    "left_out",
    "measure_white_level",
    "normalize_images",
    "read_image",
    "style_of_dataset",
]
