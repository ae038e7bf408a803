"""What the demo and the service share: bodies of limited size, errors as JSON, requests from this machine only."""

from collections.abc import Collection

from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from arcface_pl.errors import UserError, expected

LOOPBACK = ("127.0.0.1", "localhost")


async def read_body(request: Request, most: int, what: str = "picture") -> bytes:
    """Read a request's body to its end, since browsers ignore an earlier reply, but keep at most ``most`` bytes.

    Raises:
        HTTPException: 413 if it is larger.
    """
    size, parts = 0, []
    async for part in request.stream():
        size += len(part)
        if size <= most:
            parts.append(part)
    if size > most:
        raise HTTPException(413, f"{what}: got {size:,} bytes; expected at most {most:,}")
    return b"".join(parts)


def guard(hosts: Collection[str], headers: dict[str, str]) -> Middleware:
    """Make the middleware that refuses requests for another host name or from another site's page.

    Args:
        hosts: Accepted host names; empty for any.
        headers: Added to each response.
    """

    async def check(request: Request, call_next: RequestResponseEndpoint) -> Response:
        host = request.headers.get("host", "")
        if hosts and host.partition(":")[0] not in hosts:
            # DNS rebinding: another site's name that resolves to this machine
            response: Response = error_reply(403, expected("Host", host, " or ".join(hosts)))
        elif (origin := request.headers.get("origin", f"http://{host}")) != f"http://{host}":
            response = error_reply(403, expected("Origin", origin, f"http://{host}"))
        else:
            response = await call_next(request)
        response.headers.update(headers)
        return response

    return Middleware(BaseHTTPMiddleware, dispatch=check)


def error_reply(status: int, message: str) -> JSONResponse:
    """Return ``{"error": message}``."""
    return JSONResponse({"error": message}, status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_reply(error.status_code, error.detail)


async def _mistaken(request: Request, error: Exception) -> Response:
    return error_reply(400, " ".join(str(error).split()))


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # the page was closed or reloaded


async def _failed(request: Request, error: Exception) -> Response:
    return error_reply(500, "the server failed; see its terminal for the reason")


HANDLERS = {HTTPException: _refused, UserError: _mistaken, ClientDisconnect: _left, Exception: _failed}
"""Exception handlers of an application: every error is JSON."""
