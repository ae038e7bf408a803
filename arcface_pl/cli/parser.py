"""What the commands that use a trained model share: a parser whose mistakes are one line."""

import argparse
from typing import NoReturn

from arcface_pl.errors import SettingsError

__all__ = ["ToolParser"]


class ToolParser(argparse.ArgumentParser):
    """`argparse`'s parser, which keeps its description's lines and raises a `SettingsError` over a mistake.

    A tool is a module with ``run(args: list[str]) -> int | None``, the exit code; its ``torch`` and ``lightning`` are
    imported inside ``run``, after parsing, so that ``--help`` and a wrong flag do not wait for them.

    Args:
        command: Name of the command.
        description: What it does, in a few lines.
        epilog: Examples.
    """

    def __init__(self, command: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"arcface-pl {command}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage, which hides the reason."""
        raise SettingsError(message)
