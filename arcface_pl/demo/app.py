"""The demo's HTTP server, for this machine's browser only."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from arcface_pl.demo.replies import MAX_BYTES, Demo
from arcface_pl.errors import UserError, expected

PAGE = Path(__file__).parent / "page"
HOSTS = ("127.0.0.1", "localhost")
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
        return await answer(demo.recognize, await _body(request))

    async def enroll(request: Request) -> Response:
        return await answer(demo.enroll, request.query_params.get("name", ""), await _body(request))

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
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=_guard)],
        exception_handlers={HTTPException: _refused, UserError: _mistaken, ClientDisconnect: _left, Exception: _failed},
    )


async def _body(request: Request) -> bytes:
    """Read a request's body to its end, since browsers ignore an earlier reply, but keep MAX_BYTES at most."""
    size, parts = 0, []
    async for part in request.stream():
        size += len(part)
        if size <= MAX_BYTES:
            parts.append(part)
    if size > MAX_BYTES:
        raise HTTPException(413, f"picture: got {size:,} bytes; expected at most {MAX_BYTES:,}")
    return b"".join(parts)


async def _guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
    host = request.headers.get("host", "")
    if host.partition(":")[0] not in HOSTS:
        # DNS rebinding: another site's name that resolves to this machine
        response: Response = _error(403, expected("Host", host, " or ".join(HOSTS)))
    elif (origin := request.headers.get("origin", f"http://{host}")) != f"http://{host}":
        response = _error(403, expected("Origin", origin, f"http://{host}"))
    else:
        response = await call_next(request)
    response.headers.update(HEADERS)
    return response


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail)


async def _mistaken(request: Request, error: Exception) -> Response:
    return _error(400, " ".join(str(error).split()))


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # the page was closed or reloaded


async def _failed(request: Request, error: Exception) -> Response:
    return _error(500, "the server failed; see its terminal for the reason")
