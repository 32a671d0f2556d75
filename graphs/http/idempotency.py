"""The header by which sending a request twice does it once."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import Depends, Header, Request

from graphs.http.middleware import CLIENT_ID, CLIENT_ID_IS
from pipeline.errors import InvalidRequest
from pipeline.jobs import IdempotencyKey

KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The same key and body again: the same answer, and nothing is done twice. Kept like images.",
    ),
]


def key_of(request: Request, header: str | None, sent: bytes) -> IdempotencyKey | None:
    """The client's name for its request, bound to what it sent.

    Raises:
        InvalidRequest: the header can't be a key.
    """
    if header is None:
        return None
    if not CLIENT_ID.fullmatch(header):
        raise InvalidRequest(problem=f"Idempotency-Key {CLIENT_ID_IS}.")
    said = f"{request.method} {request.url.path}\0".encode() + sent
    return IdempotencyKey(key=header, fingerprint=hashlib.sha256(said).hexdigest())


async def _find_key(request: Request, header: KeyHeader = None) -> IdempotencyKey | None:
    return key_of(request, header, await request.body())


Key = Annotated[IdempotencyKey | None, Depends(_find_key)]
