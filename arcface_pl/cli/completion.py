"""Shell completion: ``arcface-pl --print_shtab bash`` prints a script for bash or zsh."""

import argparse
from collections.abc import Iterator, Mapping

from arcface_pl.cli.config import BASE_CONFIG, named_configs, read_config
from arcface_pl.cli.layers import each_setting
from arcface_pl.errors import SettingsError, expected

SHELLS = ("bash", "zsh")
CHECKPOINTS = ("best", "last", "last-good")


def completion(shell: str, trains: Mapping[str, str], tools: Mapping[str, str]) -> str:
    """Return the script that completes commands, flags, and values from a short list.

    Args:
        shell: One of `SHELLS`.
        trains: Commands that take settings, each with what it does.
        tools: The other commands; their flags are not completed, but files are.

    Raises:
        SettingsError: If the shell is another one, or shtab is not installed.
    """
    if shell not in SHELLS:
        raise SettingsError(expected("--print_shtab", shell or None, ", ".join(SHELLS)))
    try:
        import shtab
    except ImportError:
        raise SettingsError("--print_shtab: needs the package shtab; pip install 'arcface_pl[completion]'") from None
    parser = argparse.ArgumentParser("arcface-pl")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for command, does in trains.items():
        arguments = commands.add_parser(command, help=does)
        for flag, choices in _flags():
            arguments.add_argument(flag, choices=choices, help="setting")
    for command, does in tools.items():
        arguments = commands.add_parser(command, help=does)
        setattr(arguments.add_argument("file", nargs="*", help="model or file"), "complete", shtab.FILE)  # noqa: B010
    return shtab.complete(parser, shell=shell)


def _flags() -> Iterator[tuple[str, tuple[str, ...] | None]]:
    from arcface_pl.backbones import BACKBONES
    from arcface_pl.heads import HEADS

    base = read_config(BASE_CONFIG)
    choices: dict[str, tuple[str, ...]] = {
        "--config": tuple(named_configs()),
        "--ckpt_path": CHECKPOINTS,
        "--accelerator": ("auto", "cpu", "gpu", "mps"),
        "--data.dataset": ("auto", "mnist", "fashion_mnist", "kmnist", "cifar10", "digits"),
        "--model.head": tuple(HEADS),
        "--model.backbone": tuple(BACKBONES),
    }
    yield from (
        (flag, choices.get(flag)) for flag in ("--config", "--ckpt_path", "--seed_everything", "--print_config")
    )
    for name, value in base["trainer"].items():
        yield f"--{name}", ("true", "false") if isinstance(value, bool) else choices.get(f"--{name}")
    for section in ("model", "data"):
        for flag, value in each_setting(base[section], f"--{section}"):
            yield flag, ("true", "false") if isinstance(value, bool) else choices.get(flag)
