"""What goes wrong with data files, as one exception type."""

from arcface_pl.errors import UserError

__all__ = ["DataError"]


class DataError(UserError):
    """A data file is missing, damaged or cannot be fetched; the message names it, what was expected and what found."""
