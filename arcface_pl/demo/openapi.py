"""The OpenAPI 3.1 document of the service."""

from typing import Any

from arcface_pl import __version__

_NUMBER, _TEXT, _FLAG = {"type": "number"}, {"type": "string"}, {"type": "boolean"}
_OPTIONAL = {"type": ["string", "null"]}
_RESULTS: dict[str, dict[str, Any]] = {
    "embed": {"embedding": {"type": "array", "items": _NUMBER, "description": "of length 1"}},
    "predict": {"label": _TEXT, "cosine": _NUMBER, "unknown": _FLAG},
    "identify": {
        "name": {**_OPTIONAL, "description": "null if no enrolled name is near enough"},
        "matches": {"type": "array", "items": {"type": "object", "properties": {"name": _TEXT, "cosine": _NUMBER}}},
    },
}
_SUMMARIES = {
    "embed": "Embed pictures",
    "predict": "Predict the trained class of pictures",
    "identify": "Find the enrolled name of pictures",
    "verify": "Compare two pictures",
}


def document(limits: dict[str, int]) -> dict[str, Any]:
    """Return the document.

    Args:
        limits: The service's limits by name.
    """
    posts = {f"/{kind}": {"post": _operation(kind, limits)} for kind in _SUMMARIES}
    gets = {
        "/health": {"get": _get("Whether the service answers", {"status": _TEXT})},
        "/model": {"get": _get("The model, its thresholds and the limits", {})},
        "/openapi.json": {"get": _get("This document", {})},
    }
    about = {"title": "arcface_pl", "version": __version__}
    return {"openapi": "3.1.0", "info": about, "paths": {**gets, **posts}}


def _operation(kind: str, limits: dict[str, int]) -> dict[str, Any]:
    count = 2 if kind == "verify" else limits["max_images"]
    least = 2 if kind == "verify" else 1
    images = {"type": "array", "minItems": least, "maxItems": count, "items": {**_TEXT, "contentEncoding": "base64"}}
    listed = {"type": "object", "required": ["images"], "properties": {"images": images}}
    content: dict[str, Any] = {"application/json": {"schema": listed}}
    if kind == "verify":
        answer = {"cosine": _NUMBER, "angle_degrees": _NUMBER, "same": {"type": ["boolean", "null"]}}
    else:
        content["application/octet-stream"] = {"schema": {"description": "one picture file, of any content type"}}
        one = {"type": "object", "properties": {**_RESULTS[kind], "error": _TEXT}}
        answer = {"results": {"type": "array", "items": one}}
    threshold = {"name": "threshold", "in": "query", "schema": {**_NUMBER, "minimum": -1, "maximum": 1}}
    errors = {
        "400": "A picture or value that cannot be used",
        "413": f"More than {limits['max_bytes']:,} bytes",
        "503": f"More than {limits['max_waiting']:,} pictures are waiting",
    }
    return {
        "summary": _SUMMARIES[kind],
        "operationId": kind,
        "parameters": [] if kind == "embed" else [threshold],
        "requestBody": {"required": True, "content": content},
        "responses": {"200": _reply("In the order of the pictures", answer)}
        | {status: _reply(text, {"error": _TEXT}) for status, text in errors.items()},
    }


def _get(summary: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": _reply(summary, properties)}}


def _reply(description: str, properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
