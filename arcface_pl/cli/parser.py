"""What the commands that use a trained model share: arguments, one-line errors, text that is safe to print."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from rich.markup import escape

from arcface_pl.checkpoints.find_checkpoint import find_named
from arcface_pl.checkpoints.runs import NAMES, check_asked
from arcface_pl.cli.help import help_text
from arcface_pl.cli.program import as_typed, laid_out, program
from arcface_pl.errors import SettingsError, printable

MODEL_HELP = (
    "a .ckpt file; best, last or last-good: that of the newest run; a folder that save_pretrained wrote; a file that "
    "export --format safetensors wrote; an ONNX file"
)


class ToolParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that fills its texts to the terminal's width and raises `SettingsError`.

    A tool is a module with ``run(args: list[str]) -> int | None``, which returns the exit code. It imports torch and
    lightning inside ``run``, after parsing, so that ``--help`` and a wrong flag take no seconds.

    Args:
        command: Name of the command.
        text: Name of its help: what it does, and after a line ``---`` examples; unset: that of the command.
        **places: See `help_text`.
    """

    def __init__(self, command: str, text: str | None = None, **places: str) -> None:
        description, epilog = as_typed(help_text(text or command, **places)).rstrip("\n").split("\n---\n")
        super().__init__(
            prog=program(command),
            description=laid_out(description),
            epilog=laid_out(epilog),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def add_threshold(self) -> None:
        """Add ``--threshold``, a cosine."""
        self.add_argument(
            "--threshold",
            type=number(float, -1, 1, "a cosine in [-1, 1]"),
            metavar="COSINE",
            help="accept answers from this cosine, in [-1, 1]; default: the threshold measured in training",
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; ``--model.backbone``, ``--model.head``, ``--onnx`` and what is below them is left in ``networks``."""
        networks, others = split_words(args or (), "--model.backbone", "--model.head", "--onnx")
        given = super().parse_args(others, namespace)
        given.networks = networks
        for name in {"model", "checkpoint"} & vars(given).keys():  # before torch is imported
            check_asked(asked := getattr(given, name), "MODEL", folders=True)
            if asked in NAMES:
                find_named(asked, None, "MODEL")
        return given

    def error(self, message: str) -> NoReturn:
        """Raise, where argparse would print the usage and hide the reason."""
        raise SettingsError(message.removeprefix("argument "))


def split_words(args: Iterable[str], *roots: str) -> tuple[list[str], list[str]]:
    """Tell some flags and those below them, with their values, from the other words."""
    found: list[str] = []
    others: list[str] = []
    words = iter(args)
    for word in words:
        name, equals, _ = word.partition("=")
        if not f"{name}.".startswith(tuple(f"{root}." for root in roots)):
            others.append(word)
            continue
        found.append(word)
        if not equals:
            found += [value for value in [next(words, None)] if value is not None]
    return found, others


def number(kind: type, low: float, high: float, accepted: str) -> Callable[[str], float]:
    """Return an argparse ``type`` for a number in [low, high].

    Args:
        kind: int or float.
        low: Smallest value.
        high: Largest value.
        accepted: What is accepted, for the message.
    """

    def read(text: str) -> float:
        try:
            value: float = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"got {text!r}; expected {accepted}")
        return value

    return read


def cell(text: object) -> str:
    """Escape control characters and rich's markup: text of others for a rich table or panel."""
    return escape(printable(text))
