"""What turns any picture into the network's input."""

from arcface_pl.preprocessing.decoding import MAX_PIXELS, ImageError, from_pil, read_image
from arcface_pl.preprocessing.framing import fit_image
from arcface_pl.preprocessing.normalize import normalize_images
from arcface_pl.preprocessing.preprocessor import STYLES, Preprocessor, style_of_dataset

__all__ = [
    "MAX_PIXELS",
    "STYLES",
    "ImageError",
    "Preprocessor",
    "fit_image",
    "from_pil",
    "normalize_images",
    "read_image",
    "style_of_dataset",
]
