"""Deprecation of routes: marked in the OpenAPI document, and by the headers of RFC 9745 and RFC 5829 in every response.

`@router.get("/old", **deprecated_by("/v1/new/{new_id}"))` is all that a route needs. Deprecated query parameters and
fields have `deprecated=True` in their `Query` or `Field`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from fastapi import Depends, Request

from graphs.http.context import RequestContext

DEPRECATED_AT = datetime(2026, 11, 28, tzinfo=UTC)
DEPRECATION = f"@{int(DEPRECATED_AT.timestamp())}"

HEADERS = {
    "Deprecation": {
        "description": "Since when this call is deprecated, in Unix seconds (RFC 9745).",
        "schema": {"type": "string", "examples": [DEPRECATION]},
    },
    "Link": {
        "description": "The call that replaces it, as `successor-version` (RFC 5829).",
        "schema": {"type": "string"},
    },
}
"""Of the responses of a deprecated call, for its OpenAPI document."""


def deprecated_by(successor: str) -> dict[str, Any]:
    """Return the arguments that deprecate a route, for its decorator.

    Args:
        successor: path of the call to use instead; it may name parameters of the deprecated path, as `{image_id}`.
    """

    async def announce(request: Request) -> None:
        path = successor.format_map({name: quote(str(value), safe="") for name, value in request.path_params.items()})
        announced = {"Deprecation": DEPRECATION, "Link": f'<{path}>; rel="successor-version"'}
        RequestContext.of(request.scope).headers |= announced

    return {"deprecated": True, "dependencies": [Depends(announce)]}
