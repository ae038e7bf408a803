"""``arcface-pl demo``: a page on this machine to try a trained model."""

import argparse
import errno
import os
import socket
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from arcface_pl.cli.parser import MODEL_HELP, ToolParser, number
from arcface_pl.errors import SettingsError, expected, printable

if TYPE_CHECKING:
    from arcface_pl.recognizer import Recognizer

HOST = "127.0.0.1"
WAIT = 10  # seconds to wait for another process that holds the gallery's lock: the page hangs meanwhile


def run(args: list[str]) -> None:
    """Serve the page until interrupted.

    Args:
        args: The model and flags.

    Raises:
        UserError: If the model, the gallery or the port cannot be used, or the extra is not installed.
    """
    parser = server_parser("demo", 8765)
    parser.add_argument("--gallery", metavar="DIR", help="keep enrolled names in this folder (default: in memory)")
    parser.set_defaults(host=HOST, accelerator="cpu")
    given = parser.parse_args(args)

    def make_app(recognizer: "Recognizer") -> Any:
        from arcface_pl.demo import Demo, create_app
        from arcface_pl.recognizer.gallery_lock import editing_gallery

        editing = partial(editing_gallery, recognizer, given.gallery, timeout=WAIT) if given.gallery else nullcontext
        # Read the gallery, and find out that it cannot be written before anything is drawn
        with editing():
            pass
        return create_app(Demo(recognizer, threshold=given.threshold, editing=editing))

    run_server("demo", given, make_app, f"/ shows {printable(given.model)}")


def server_parser(command: str, port: int) -> ToolParser:
    """Make the parser of a server, with the arguments of all of them; ``port`` is the default."""
    parser = ToolParser(command)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    accepted = number(int, 0, 65_535, "a port, 0 to 65535")
    told = f"port; 0: any free one (default: {port})"
    parser.add_argument("--port", type=accepted, default=port, metavar="N", help=told)
    parser.add_threshold()
    return parser


def run_server(
    command: str, given: argparse.Namespace, make_app: Callable[["Recognizer"], Any], address_shows: str
) -> None:
    """Open the port, load the model, and serve an ASGI application until interrupted.

    Args:
        command: Name of the command and of its extra.
        given: ``model``, ``networks``, ``accelerator``, ``host``, ``port`` and ``threshold``.
        make_app: Makes the application.
        address_shows: What is printed after the server's address.

    Raises:
        UserError: If the model or the port cannot be used, or the extra is not installed.
    """
    try:
        import starlette  # noqa: F401  # imported here to name it if it is missing
        import uvicorn
    except ModuleNotFoundError as error:
        raise SettingsError(f"{command}: {error.name} is not installed; pip install 'arcface_pl[{command}]'") from error
    from arcface_pl.cli.evaluate import device_of
    from arcface_pl.cli.inputs import open_model, warn_of_threshold
    from arcface_pl.recognizer import Recognizer

    with _listen(given.host, given.port) as listener:
        recognizer = Recognizer(open_model(given.model, given.networks), device=device_of(given.accelerator))
        app = make_app(recognizer)
        warn_of_threshold(given.threshold, recognizer)
        address = f"http://{given.host}:{listener.getsockname()[1]}"
        print(f"{address}{address_shows} (Ctrl-C ends it)", flush=True)  # noqa: T201
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
        )
        with suppress(KeyboardInterrupt):  # uvicorn shuts down, then raises the interrupt again
            uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Open the port, so that what is wrong with it shows before a model is loaded."""
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL or (error.errno or 0) < 0:  # below 0: of the resolver
            raise SettingsError(expected("--host", host, "an address of this machine")) from error
        reason = f"It cannot be used: {os.strerror(error.errno or 0)}"
        raise SettingsError(expected("--port", port, "a free port, or 0 for any", reason)) from error
    # Connections inherit it. asyncio sets it for sockets that it opens itself; without, the body of an answer waits
    # 40 ms for the client's word that it has the headers
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
