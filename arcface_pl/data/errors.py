"""What goes wrong with data files, as one exception type."""

__all__ = ["DataError"]


class DataError(ValueError):
    """A data file is missing, damaged or cannot be fetched; the message names it, what was expected and what found."""
