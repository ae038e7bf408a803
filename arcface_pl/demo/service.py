"""The HTTP service: embed, predict, identify and verify pictures, batched over requests."""

import asyncio
import base64
import binascii
import json
import math
import os
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from arcface_pl.demo.local_web import HANDLERS, LOOPBACK, guard, read_body
from arcface_pl.demo.openapi import document
from arcface_pl.errors import UserError, expected
from arcface_pl.preprocessing import ImageError
from arcface_pl.recognizer import Recognizer, Thresholds
from arcface_pl.recognizer.pictures import frame


class Limits(NamedTuple):
    """What the service accepts.

    Attributes:
        max_bytes: Largest body of a request.
        max_images: Most pictures per request.
        max_batch: Most pictures per forward pass.
        max_waiting: Most pictures that wait; further requests are answered with status 503.
    """

    max_bytes: int = 20 * 2**20
    max_images: int = 64
    max_batch: int = 64
    max_waiting: int = 1024


class _Waiting(NamedTuple):
    key: Hashable
    picture: Any
    future: "asyncio.Future[Any]"


class Batcher:
    """Collects the pictures of all requests that arrive while a batch is computed; they are the next batch.

    Nobody waits for a batch to fill: a lone request is computed at once.

    Args:
        prepare: Reads a picture, in one of several threads; an `ImageError` that it returns is the answer.
        work: Computes the answers of what was read, in a thread of its own: of pictures with the same key only.
        limits: ``max_batch`` and ``max_waiting`` of them.
    """

    def __init__(
        self, prepare: Callable[[bytes], Any], work: Callable[[Any, list[Any]], list[Any]], limits: Limits
    ) -> None:
        self._prepare, self._work, self._limits = prepare, work, limits
        self._readers, self._thread = ThreadPoolExecutor(min(8, os.cpu_count() or 1)), ThreadPoolExecutor(1)
        self._num_asked = 0
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None

    async def answers(self, key: Hashable, pictures: list[bytes]) -> list[Any]:
        """Return the answer of each picture.

        Raises:
            HTTPException: 503 if too many are waiting.
        """
        if self._num_asked + len(pictures) > self._limits.max_waiting:
            raise HTTPException(503, f"busy: {self._num_asked:,} pictures are waiting; try again later")
        self._num_asked += len(pictures)
        try:
            return list(await asyncio.gather(*(self._answer(key, picture) for picture in pictures)))
        finally:
            self._num_asked -= len(pictures)

    async def _answer(self, key: Hashable, picture: bytes) -> Any:
        loop = asyncio.get_running_loop()
        ready = await loop.run_in_executor(self._readers, self._prepare, picture)
        if isinstance(ready, ImageError):
            return ready
        future = loop.create_future()
        self._waiting.append(_Waiting(key, ready, future))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._compute())
        return await future

    async def _compute(self) -> None:
        while self._waiting:
            batch = self._next()
            if not batch:  # everybody has left
                continue
            try:
                pictures = [each.picture for each in batch]
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(self._thread, self._work, batch[0].key, pictures)
            except Exception as error:
                found = [error] * len(batch)
            for (_, _, future), answer in zip(batch, found, strict=True):
                if future.done():  # the client has left
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _next(self) -> "list[_Waiting]":
        """Take the first pictures that waiting requests ask alike of."""
        key = self._waiting[0].key
        batch: list[_Waiting] = []
        others: list[_Waiting] = []
        while self._waiting and len(batch) < self._limits.max_batch:
            each = self._waiting.popleft()
            if each.future.done():
                continue
            (batch if each.key == key else others).append(each)
        self._waiting.extendleft(reversed(others))
        return batch


def create_service(
    recognizer: Recognizer,
    *,
    threshold: float | None = None,
    limits: Limits | None = None,
    hosts: tuple[str, ...] = LOOPBACK,
) -> Starlette:
    """Make the ASGI application; ``GET /openapi.json`` describes it.

    Args:
        recognizer: The model and the enrolled names.
        threshold: Smallest accepted cosine, in [-1, 1], where a request gives none; unset: the stored thresholds.
        limits: What is accepted; unset: the defaults.
        hosts: Accepted host names; empty for any.
    """
    service = _Service(recognizer, threshold, limits or Limits())
    kinds = ("embed", "predict", "identify")
    return Starlette(
        routes=[
            Route("/health", service.health),
            Route("/model", service.about),
            Route("/openapi.json", service.openapi),
            *(Route(f"/{kind}", partial(service.answer, kind), methods=["POST"]) for kind in kinds),
            Route("/verify", service.verify, methods=["POST"]),
        ],
        middleware=[guard(hosts, {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})],
        exception_handlers=HANDLERS,
    )


class _Service:
    """The endpoints."""

    def __init__(self, recognizer: Recognizer, threshold: float | None, limits: Limits) -> None:
        self.recognizer, self.threshold, self.limits = recognizer, threshold, limits
        self.batcher = Batcher(lambda picture: frame(picture, recognizer.model.preprocessor), self._work, limits)

    def _work(self, key: tuple[str, float | None], pictures: list[torch.Tensor]) -> list[Any]:
        (kind, limit), pixels = key, torch.stack(pictures)
        if kind == "predict":
            return self.recognizer.classify(pixels, threshold=limit, framed=True)
        if kind == "identify":
            return self.recognizer.identify(pixels, threshold=limit, framed=True)
        return list(self.recognizer.embed(pixels, framed=True))

    async def answer(self, kind: str, request: Request) -> Response:
        limit = _threshold(request, self.threshold)
        pictures, is_list = await _pictures(request, self.limits)
        if kind == "identify" and not len(self.recognizer.gallery):
            accepted = "at least one name"
            raise HTTPException(400, expected("gallery", "none enrolled", accepted, "Serve with --gallery DIR"))
        found = await self.batcher.answers((kind, None if kind == "embed" else limit), pictures)
        if not is_list and isinstance(found[0], ImageError):
            raise found[0]
        return JSONResponse({"results": [_plain(each) for each in found]})

    async def verify(self, request: Request) -> Response:
        limit = _threshold(request, self.threshold)
        pictures, _ = await _pictures(request, self.limits)
        if len(pictures) != 2:
            raise HTTPException(400, expected("images", len(pictures), "two pictures, as JSON"))
        found = await self.batcher.answers(("embed", None), pictures)
        if wrong := [f"images[{place}]: {each}" for place, each in enumerate(found) if isinstance(each, ImageError)]:
            raise HTTPException(400, "; ".join(wrong))
        same = self.recognizer.compare(torch.stack(found), threshold=limit)
        return JSONResponse({"cosine": same.cosine, "angle_degrees": same.angle, "same": same.same})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def about(self, request: Request) -> Response:
        model, stored = self.recognizer.model, self.recognizer.thresholds
        limits = stored if self.threshold is None else Thresholds(self.threshold, self.threshold)
        return JSONResponse(
            {
                "backbone": type(model.backbone).__name__,
                "dataset": model.dataset_name,
                "classes": model.class_names,
                "embedding_dim": model.head.embedding_dim,
                "threshold_classification": limits.classification,
                "threshold_verification": limits.verification,
                "num_enrolled": len(self.recognizer.gallery),
                "limits": self.limits._asdict(),
            }
        )

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(document(self.limits._asdict()))


def _threshold(request: Request, default: float | None) -> float | None:
    text = request.query_params.get("threshold")
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -1 <= value <= 1:
        raise HTTPException(400, expected("threshold", text, "a cosine in [-1, 1]"))
    return value


async def _pictures(request: Request, limits: Limits) -> tuple[list[bytes], bool]:
    """Return the pictures of a request, and whether they came as a list."""
    body = await read_body(request, limits.max_bytes, "body")
    is_json = request.headers.get("content-type", "").partition(";")[0].strip() == "application/json"
    if not is_json and body.lstrip()[:1] != b"{":  # curl's -d does not call it JSON, and no picture file begins so
        if not body:
            raise HTTPException(400, "picture: got an empty body; expected a picture file, or JSON")
        return [body], False
    try:
        images = json.loads(body)["images"]
        if not isinstance(images, list) or not all(isinstance(each, str) for each in images):
            raise TypeError("images is not a list of text")
        pictures = [base64.b64decode(each, validate=True) for each in images]
    except (KeyError, TypeError, ValueError, RecursionError, binascii.Error) as error:
        reason = " ".join(str(error).split())
        raise HTTPException(400, expected("body", reason, '{"images": [picture files as base64, ...]}')) from error
    if not 1 <= len(pictures) <= limits.max_images:
        raise HTTPException(400, expected("images", len(pictures), f"1 to {limits.max_images} pictures"))
    return pictures, True


def _plain(answer: Any) -> dict[str, Any]:
    if isinstance(answer, UserError):
        return {"error": " ".join(str(answer).split())}
    if isinstance(answer, torch.Tensor):
        return {"embedding": answer.tolist()}
    if hasattr(answer, "matches"):
        matches = [{"name": match.name, "cosine": match.score} for match in answer.matches]
        return {"name": answer.name, "matches": matches}
    return {"label": answer.name, "cosine": answer.cosine, "unknown": answer.unknown}
