"""The demo's HTTP server, for this machine's browser only."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from arcface_pl.demo.local_web import HANDLERS, LOOPBACK, guard, read_body
from arcface_pl.demo.replies import MAX_BYTES, Demo

PAGE = Path(__file__).parent / "page"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def create_app(demo: Demo) -> Starlette:
    """Make the ASGI application.

    ``GET /`` is the page. ``GET /api/model``, ``POST /api/recognize`` and ``POST /api/names?name=`` with a picture file
    as the body, and ``DELETE /api/names?name=`` call `Demo`'s methods; errors are ``{"error": ...}`` with a status >=
    400. Requests for another host name, or from another site's page, are refused.

    Args:
        demo: Computes the replies.
    """
    # One thread: requests take turns, and torch keeps its thread pool between them
    worker = ThreadPoolExecutor(1)

    async def answer(method: Callable[..., Any], *values: Any) -> Response:
        return JSONResponse(await asyncio.get_running_loop().run_in_executor(worker, method, *values))

    async def about(request: Request) -> Response:
        return await answer(demo.about)

    async def recognize(request: Request) -> Response:
        return await answer(demo.recognize, await read_body(request, MAX_BYTES))

    async def enroll(request: Request) -> Response:
        return await answer(demo.enroll, request.query_params.get("name", ""), await read_body(request, MAX_BYTES))

    async def remove(request: Request) -> Response:
        return await answer(demo.remove, request.query_params.get("name", ""))

    return Starlette(
        routes=[
            Route("/api/model", about),
            Route("/api/recognize", recognize, methods=["POST"]),
            Route("/api/names", enroll, methods=["POST"]),
            Route("/api/names", remove, methods=["DELETE"]),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[guard(LOOPBACK, HEADERS)],
        exception_handlers=HANDLERS,
    )
