"""``arcface-pl demo``: a page on this machine to try a trained model."""

import argparse
import os
import socket
import sys
from contextlib import nullcontext, suppress
from functools import partial

from arcface_pl.cli.parser import ToolParser
from arcface_pl.errors import SettingsError

__all__ = ["run"]

HOST = "127.0.0.1"
WAIT = 10  # seconds for another process to be done with the gallery: the page stands still meanwhile

_DESCRIPTION = """\
Serve a page to try a trained model on, for this machine's own browser; no network is needed. Draw with mouse, finger or
pen, or drop a picture file on it: as you draw, it shows the angle to every class center (of many classes, the nearest),
and the class, or "unknown" past the threshold that was measured in training. A new class is enrolled from a few
drawings, recognised from then on, and removed again.

MODEL is a checkpoint, a folder that Recognizer.save_pretrained wrote, or best, last or last-good: that of the
newest run. Ctrl-C ends it."""

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
        UserError: If the model, the gallery or the port cannot be used, or the extra is missing.
    """
    given = _parse(args)
    try:
        import uvicorn

        from arcface_pl.demo import Demo, create_app
    except ModuleNotFoundError as error:
        raise SettingsError(f"needs {error.name}; pip install 'arcface_pl[demo]'") from error
    from arcface_pl.cli.inputs import open_model
    from arcface_pl.cli.recognize import editing_gallery
    from arcface_pl.recognizer import Recognizer

    with _listen(given.port) as listener:
        recognizer = Recognizer(open_model(given.model))
        editing = partial(editing_gallery, recognizer, given.gallery, timeout=WAIT) if given.gallery else nullcontext
        # Once to begin with: what is there is read, and whether it can be written is known before anything is drawn.
        with editing():
            pass
        if given.threshold is None and recognizer.thresholds.classification is None:
            print("No threshold is kept in this model: nothing is called unknown.", file=sys.stderr)  # noqa: T201
        app = create_app(Demo(recognizer, threshold=given.threshold, editing=editing))
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
        )
        port = listener.getsockname()[1]
        print(f"http://{HOST}:{port}/ shows {given.model} (Ctrl-C ends it)", flush=True)  # noqa: T201
        # Once it has ended in order, uvicorn passes the interrupt on.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _parse(args: list[str]) -> argparse.Namespace:
    parser = ToolParser("demo", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="checkpoint, folder, best, last or last-good")
    parser.add_argument(
        "--port", type=int, default=8765, metavar="N", help="port on 127.0.0.1; 0 for a free one (default: 8765)"
    )
    parser.add_argument(
        "--threshold", type=float, metavar="COSINE", help="cosine from which on an answer is believed, from -1 to 1"
    )
    parser.add_argument("--gallery", metavar="DIR", help="keep enrolled names in this folder (default: in memory)")
    given = parser.parse_args(args)
    if given.threshold is not None and not -1 <= given.threshold <= 1:
        raise SettingsError(f"--threshold: got {given.threshold}, accepts a cosine from -1 to 1")
    if not 0 <= given.port <= 65_535:
        raise SettingsError(f"--port: got {given.port}, accepts 0 to 65535")
    return given


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise SettingsError(f"--port: {port} cannot be used ({reason}); accepts a free one, or 0 for any") from error
