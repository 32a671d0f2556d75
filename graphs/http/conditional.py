"""Bytes as caches and interrupted downloads want them: with an ETag, 304, and one range (RFC 9110)."""

from __future__ import annotations

import re

from fastapi import Request
from starlette.responses import Response

ONE_YEAR_S = 365 * 24 * 3600

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def caching_headers(etag: str, *, for_ever: bool) -> dict[str, str]:
    """Headers of something that may be kept: for ever, or as long as asking says that it is the same."""
    keep = f"private, max-age={ONE_YEAR_S}, immutable" if for_ever else "private, no-cache"
    return {"ETag": f'"{etag}"', "Cache-Control": keep, "Accept-Ranges": "bytes"}


def is_known(request: Request, etag: str) -> bool:
    """Whether the client says that it has it already."""
    said = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return f'"{etag}"' in said or "*" in said


def not_modified(etag: str, *, for_ever: bool = True) -> Response:
    """The answer to a client who has it already."""
    return Response(status_code=304, headers=caching_headers(etag, for_ever=for_ever))


def content(request: Request, body: bytes, media_type: str, etag: str, *, for_ever: bool = True) -> Response:
    """Send bytes, or the one range of them that is asked for; several ranges are answered by the whole.

    Args:
        etag: names these bytes.
        for_ever: whether the same URL will always give them.
    """
    headers = caching_headers(etag, for_ever=for_ever)
    if is_known(request, etag):
        return not_modified(etag, for_ever=for_ever)
    wanted = _RANGE.fullmatch(request.headers.get("range", ""))
    is_fresh = request.headers.get("if-range", headers["ETag"]) == headers["ETag"]
    if wanted is None or not is_fresh or not _is_range(*wanted.groups()):
        return Response(body, media_type=media_type, headers=headers)
    if wanted[1]:
        start, end = int(wanted[1]), min(int(wanted[2] or len(body)), len(body) - 1)
    else:  # the last so many
        start, end = max(0, len(body) - int(wanted[2])), len(body) - 1
    if start > end:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{len(body)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
    return Response(body[start : end + 1], status_code=206, media_type=media_type, headers=headers)


def _is_range(first: str, last: str) -> bool:
    """Whether it is one at all: others are ignored (section 14.1.2)."""
    return bool(first or last) and not (first and last and int(last) < int(first))
