"""``arcface-pl demo``: a page on this machine to try a trained model."""

import argparse
import errno
import os
import socket
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

from arcface_pl.cli.parser import MODEL_HELP, ToolParser, number
from arcface_pl.errors import SettingsError, expected, printable

HOST = "127.0.0.1"
WAIT = 10  # seconds to wait for another process that holds the gallery's lock: the page hangs meanwhile

_DESCRIPTION = """\
Serve a page to try a trained model in this machine's browser; no network is needed. Draw with mouse, finger or pen, or
drop a picture file: while you draw, the page shows the angle to every class center (the nearest, if there are many) and
the class, or "unknown" below the threshold. You can enroll a new class from a few drawings, and remove it again.
Ctrl-C ends the command."""

_EXAMPLES = """\
examples:
  arcface-pl demo best
  arcface-pl demo best --port 0 --threshold 0.6
  arcface-pl demo best --gallery gallery       (with the names that 'arcface-pl recognize enroll' enrolled)"""


def run(args: list[str]) -> None:
    """Serve the page until interrupted.

    Args:
        args: The model and flags.

    Raises:
        UserError: If the model, the gallery or the port cannot be used, or the extra is not installed.
    """
    given = _parse(args)
    try:
        import uvicorn  # noqa: F401  # imported here to name it if it is missing

        from arcface_pl.demo import Demo, create_app
    except ModuleNotFoundError as error:
        raise SettingsError(f"demo: {error.name} is not installed; pip install 'arcface_pl[demo]'") from error
    from arcface_pl.cli.inputs import open_model, warn_without_threshold
    from arcface_pl.cli.recognize import editing_gallery
    from arcface_pl.recognizer import Recognizer

    with listen(HOST, given.port) as listener:
        recognizer = Recognizer(open_model(given.model, given.networks))
        editing = partial(editing_gallery, recognizer, given.gallery, timeout=WAIT) if given.gallery else nullcontext
        # Read the gallery, and find out that it cannot be written before anything is drawn
        with editing():
            pass
        warn_without_threshold(given.threshold, recognizer.thresholds.classification)
        app = create_app(Demo(recognizer, threshold=given.threshold, editing=editing))
        port = listener.getsockname()[1]
        print(f"http://{HOST}:{port}/ shows {printable(given.model)} (Ctrl-C ends it)", flush=True)  # noqa: T201
        run_server(app, listener)


def _parse(args: list[str]) -> argparse.Namespace:
    parser = ToolParser("demo", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_port(parser, 8765)
    parser.add_threshold()
    parser.add_argument("--gallery", metavar="DIR", help="keep enrolled names in this folder (default: in memory)")
    return parser.parse_args(args)


def add_port(parser: ToolParser, default: int) -> None:
    """Add ``--port``."""
    accepted = number(int, 0, 65_535, "a port, 0 to 65535")
    told = f"port; 0: any free one (default: {default})"
    parser.add_argument("--port", type=accepted, default=default, metavar="N", help=told)


def run_server(app: Any, listener: socket.socket) -> None:
    """Serve an ASGI application until interrupted."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    with suppress(KeyboardInterrupt):  # uvicorn shuts down, then raises the interrupt again
        uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Open the port, so that what is wrong with it shows before a model is loaded.

    Raises:
        SettingsError: If it cannot be used.
    """
    try:
        return socket.create_server((host, port))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL or (error.errno or 0) < 0:  # below 0: of the resolver
            raise SettingsError(expected("--host", host, "an address of this machine")) from error
        reason = f"It cannot be used: {os.strerror(error.errno or 0)}"
        raise SettingsError(expected("--port", port, "a free port, or 0 for any", reason)) from error
