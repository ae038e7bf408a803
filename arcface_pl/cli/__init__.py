"""The command line: `main` is what the scripts, the console command and the tests call."""

import sys
from collections.abc import Sequence

from arcface_pl.cli.config import SettingsError
from arcface_pl.cli.help import HELP, SUBCOMMANDS

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Run ``arcface-pl``.

    Args:
        args: A subcommand (fit, validate, test, predict) and its flags; unset: what the process was started with.

    Raises:
        SystemExit: With code 2 and one line on standard error if a setting, a file or the device asked for cannot be
            used; with code 130 if interrupted.
    """
    args = list(sys.argv[1:] if args is None else args)
    command = args.pop(0) if args else "--help"
    if command in ("-h", "--help") or {"-h", "--help"} & set(args):
        print(HELP[command if command in SUBCOMMANDS else "arcface-pl"])  # noqa: T201
        return
    try:
        if command not in SUBCOMMANDS:
            raise SettingsError(f"{command!r}: no such command; accepts {', '.join(SUBCOMMANDS)}")
        # torch and lightning take seconds to import, which --help need not wait for.
        from arcface_pl.cli.run import run

        run(command, [word for word in args if word != "--traceback"])
    except KeyboardInterrupt:
        sys.exit(130)
    except ValueError as error:
        from arcface_pl.cli.errors import is_for_the_user, one_line

        if "--traceback" in args or not is_for_the_user(error):
            raise
        print(f"arcface-pl {command}: error: {one_line(error)}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
