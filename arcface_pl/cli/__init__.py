"""The command line: `main` is what the scripts, the console command and the tests call."""

import atexit
import gc
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TextIO

from arcface_pl import __version__
from arcface_pl.cli.help import SUBCOMMANDS, help_text
from arcface_pl.cli.launchers import check_address_space, check_launcher
from arcface_pl.cli.program import as_typed, program
from arcface_pl.errors import SettingsError, UserError, file_errors, folded, printable

__all__ = ["main"]

TOOLS: dict[str, str] = {
    "evaluate": "arcface_pl.cli.evaluate",
    "embed": "arcface_pl.cli.embed",
    "inspect": "arcface_pl.cli.inspect_labels",
    "recognize": "arcface_pl.cli.recognize",
    "export": "arcface_pl.cli.export",
    "demo": "arcface_pl.cli.demo",
    "serve": "arcface_pl.cli.serve",
}
"""What is done with a trained model: the command, and the module whose ``run(args)`` does it."""


def main(args: Sequence[str] | None = None) -> None:
    """Run ``arcface-pl``.

    Args:
        args: A subcommand (fit, validate, test, predict, or one of `TOOLS`) and what follows it; unset: what the
            process was started with.

    Raises:
        SystemExit: With code 2 and one line on standard error if a setting, a file or the device asked for cannot be
            used; with code 130 if interrupted; with the code of a tool that has one.
    """
    args = list(sys.argv[1:] if args is None else args)
    out = sys.__stdout__
    if out is not None and out is sys.stdout and isinstance(out.buffer, io.RawIOBase):
        # python -u drops the rest of a line of which a full disk takes a part
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(out.buffer), out.encoding, line_buffering=True)
    if not os.environ.get("COLUMNS", "80").strip(
        "0"
    ):  # of a container without a terminal: tables 0 wide would be empty
        del os.environ["COLUMNS"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that is not UTF-8 shows escapes, not a traceback
            stream.reconfigure(errors="backslashreplace")
    with suppress(FileNotFoundError):  # the current folder may have been deleted
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)  # my_package.MyNet; last, so that it hides nothing that is installed
    if any(option.startswith("error") for option in sys.warnoptions):  # is for this package, not for what it uses
        warnings.filterwarnings("default", module=r"(?!arcface_pl)")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Folded())
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # which complains where there is no home folder
    _bound_waiting()
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)  # with the process ends all of its memory, which need not be searched for garbage
    command = args.pop(0) if args else "--help"
    while command in ("-c", "--config") and len(args) > 1:  # LightningCLI takes configs before the subcommand too
        command, args = args[1], [command, args[0], *args[2:]]
    try:
        with file_errors(), _output():
            _perform(command, args)
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:
        if "--traceback" in args:
            raise
        from arcface_pl.cli.typed_text import with_typed_text

        message = with_typed_text(as_typed(str(error)), command, args)
        line = " ".join(f"{program(command)}: error: {message}".split())
        with suppress(OSError):
            print(folded(printable(line), sys.stderr), file=sys.stderr)  # noqa: T201
        sys.exit(2)


def _bound_waiting() -> None:
    """Let OpenMP's threads wait for one another only briefly at full speed, then asleep, unless the user has a say.

    By default GNU's, which torch has on Linux, spin 300,000 times at the end of every parallel loop, and take the core
    from whatever else runs. The variable is read when torch is loaded, by processes that this one starts, too.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "2000"


def _perform(command: str, args: list[str]) -> None:
    # `predict` followed by flags is the test set's; by a checkpoint, that of the pictures named after it
    own_pictures = command == "predict" and bool(args) and not args[0].startswith("-")
    if command not in TOOLS and not own_pictures and (command in ("-h", "--help") or {"-h", "--help"} & set(args)):
        topic = command if command in SUBCOMMANDS else ""
        print(as_typed(help_text(topic or "arcface-pl")), end="")  # noqa: T201
        return
    if command in ("-V", "--version"):
        print(f"arcface-pl {__version__}")  # noqa: T201
        return
    words = [word for word in args if word != "--traceback"]
    check_launcher()
    check_address_space()
    if own_pictures or command in TOOLS:
        tool = import_module(TOOLS.get(command, "arcface_pl.cli.predict"))
        try:
            sys.exit(tool.run(words))
        except Exception as error:
            if "torch" in sys.modules:
                import_module("arcface_pl.cli.memory").check_tool_memory(error)
            raise
    if command.partition("=")[0] == "--print_shtab":
        _print_completion(command.partition("=")[2] or " ".join(args))
        return
    if command not in SUBCOMMANDS:
        raise SettingsError(f"{command!r}: no such command; accepts {', '.join((*SUBCOMMANDS, *TOOLS))}")
    try:
        os.getcwd()
    except FileNotFoundError:
        raise SettingsError("the current folder: it has been deleted; change to another one") from None
    # torch and lightning take seconds to import, which --help and a wrong flag need not wait for.
    _check_words(command, words)
    with _without_collection():
        from arcface_pl.cli.run import run
    run(command, words)


def _check_words(command: str, words: list[str]) -> None:
    from arcface_pl.checkpoints.find_checkpoint import find_named
    from arcface_pl.checkpoints.runs import NAMES, check_asked
    from arcface_pl.cli.command_line import last_value, parse_command_line
    from arcface_pl.cli.config import BASE_CONFIG, read_config

    request = parse_command_line(command, words)
    settings, flags = request.over(read_config(BASE_CONFIG))
    asked = request.ckpt_path
    if request.helps:
        return
    if asked is None and command != "fit":
        raise SettingsError(f"--ckpt_path: {command} needs one; accepts a path, last, last-good or best")
    if asked in NAMES:
        find_named(asked, last_value(settings, flags, "trainer.default_root_dir"), "--ckpt_path")
    elif asked is not None:
        check_asked(str(asked), "--ckpt_path", folders=True)
    elif request.flags + request.configs:
        from arcface_pl.cli.early_values import check_early

        check_early(settings, flags)


class _Folded(logging.Formatter):
    """Warnings, broken between words on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return folded(super().format(record), sys.stderr)


def _print_completion(shell: str) -> None:
    from arcface_pl.cli.completion import completion

    does = dict(line.split(maxsplit=1) for line in help_text("arcface-pl").splitlines() if line.startswith("  "))
    trains = {command: does[command] for command in SUBCOMMANDS}
    print(completion(shell, trains, {command: does[command] for command in TOOLS}))  # noqa: T201


@contextmanager
def _without_collection() -> Iterator[None]:
    """Import without garbage collection: modules are no garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _output() -> Iterator[None]:
    """Write out what the body prints.

    Raises:
        SettingsError: If standard output takes nothing, such as on a full disk.
        SystemExit: With code 141, as for SIGPIPE, if its reader has left, as head does.
    """
    try:
        try:
            yield
        finally:
            for stream in filter(None, (sys.stdout, sys.stderr)):  # a process may be started without them
                stream.flush()
    except (OSError, UserError) as error:
        if isinstance(error, BrokenPipeError) or any(_is_stuck(each, error) for each in (sys.stdout, sys.stderr)):
            # Python would complain once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if isinstance(error, BrokenPipeError):
                sys.exit(141)
            raise SettingsError(f"standard output: cannot be written ({getattr(error, 'strerror', error)})") from None
        raise


def _is_stuck(stream: TextIO | None, error: Exception) -> bool:
    """Whether what was printed cannot be written."""
    try:
        if stream is not None:
            # Perhaps of a print, whose text is lost by now; "not found" is tempfile's
            if isinstance(error, OSError) and error.filename is None and not isinstance(error, FileNotFoundError):
                stream.write("\n")
            stream.flush()
    except OSError:
        return True
    return False
