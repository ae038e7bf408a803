"""``arcface-pl serve``: a trained model over HTTP."""

import argparse
from typing import TYPE_CHECKING, Any

from arcface_pl.cli.demo import HOST, run_server, server_parser
from arcface_pl.cli.parser import number
from arcface_pl.errors import printable

if TYPE_CHECKING:
    from arcface_pl.recognizer import Recognizer


def run(args: list[str]) -> None:
    """Serve until interrupted.

    Args:
        args: The model and flags.

    Raises:
        UserError: If the model, the gallery or the port cannot be used, or the extra is not installed.
    """
    given = _parse(args)

    def make_app(recognizer: "Recognizer") -> Any:
        from arcface_pl.demo import Limits, create_service
        from arcface_pl.demo.local_web import LOOPBACK

        if given.gallery:
            recognizer.load_gallery(given.gallery)
        limits = Limits(given.max_mib * 2**20, given.max_images, given.max_batch, given.max_waiting)
        hosts = LOOPBACK if given.host == HOST else ()
        return create_service(recognizer, threshold=given.threshold, limits=limits, hosts=hosts)

    run_server("serve", given, make_app, f"/openapi.json describes {printable(given.model)}")


def _parse(args: list[str]) -> argparse.Namespace:
    parser = server_parser("serve", 8766)
    parser.add_argument("--host", default=HOST, metavar="ADDRESS", help=f"default: {HOST}, this machine only")
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
