"""``arcface-pl serve``: a trained model over HTTP."""

import argparse

from arcface_pl.cli.demo import add_port, listen, run_server
from arcface_pl.cli.parser import MODEL_HELP, ToolParser, number
from arcface_pl.errors import SettingsError, printable

LOCAL = "127.0.0.1"

_DESCRIPTION = """\
Serve a trained model to programs.

  POST /embed, /predict, /identify, /verify
                     a picture file as the body, or JSON {"images": [base64, ...]}; verify takes two; ?threshold=COSINE
  GET /health, /model, /openapi.json

Pictures of all requests that arrive while a batch is computed are the next batch. Requests for another host name than
this machine's are refused unless --host is given; there is no password and no encryption: put a proxy in front of it
to serve others. Ctrl-C ends the command."""

_EPILOG = """\
examples:
  arcface-pl serve best
  curl --data-binary @photo.png http://127.0.0.1:8766/predict"""


def run(args: list[str]) -> None:
    """Serve until interrupted.

    Args:
        args: The model and flags.

    Raises:
        UserError: If the model, the gallery or the port cannot be used, or the extra is not installed.
    """
    given = _parse(args)
    try:
        import uvicorn  # noqa: F401  # imported here to name it if it is missing

        from arcface_pl.demo import Limits, create_service
        from arcface_pl.demo.local_web import LOOPBACK
    except ModuleNotFoundError as error:
        raise SettingsError(f"serve: {error.name} is not installed; pip install 'arcface_pl[serve]'") from error
    from arcface_pl.cli.evaluate import device_of
    from arcface_pl.cli.inputs import open_model, warn_without_threshold
    from arcface_pl.recognizer import Recognizer

    with listen(given.host, given.port) as listener:
        recognizer = Recognizer(open_model(given.model, given.networks), device=device_of(given.accelerator))
        if given.gallery:
            recognizer.load_gallery(given.gallery)
        warn_without_threshold(given.threshold, recognizer.thresholds.classification)
        limits = Limits(given.max_mib * 2**20, given.max_images, given.max_batch, given.max_waiting)
        hosts = LOOPBACK if given.host == LOCAL else ()
        app = create_service(recognizer, threshold=given.threshold, limits=limits, hosts=hosts)
        address = f"http://{given.host}:{listener.getsockname()[1]}"
        print(f"{address}/openapi.json describes {printable(given.model)} (Ctrl-C ends it)", flush=True)  # noqa: T201
        run_server(app, listener)


def _parse(args: list[str]) -> argparse.Namespace:
    parser = ToolParser("serve", _DESCRIPTION, _EPILOG)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--host", default=LOCAL, metavar="ADDRESS", help=f"default: {LOCAL}, this machine only")
    add_port(parser, 8766)
    parser.add_threshold()
    parser.add_argument("--gallery", metavar="DIR", help="folder of enrolled names, for identify")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu", "mps"), default="auto", help="default: auto")
    for name, default, told in (
        ("max_batch", 64, "pictures per forward pass"),
        ("max_images", 64, "pictures per request"),
        ("max_waiting", 1024, "pictures that wait; further requests get status 503"),
        ("max_mib", 20, "MiB per request"),
    ):
        accepted = number(int, 1, 1_000_000, "a whole number of at least 1")
        parser.add_argument(
            f"--{name}", type=accepted, default=default, metavar="N", help=f"{told} (default: {default})"
        )
    return parser.parse_args(args)
