"""A request's caller: owner, session, and the Idempotency-Key it sent."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.responses import Response

from graphs.generation.requests import GenerationJobSpec
from graphs.http.middleware import CLIENT_ID, CLIENT_ID_IS
from pipeline.errors import InvalidRequest
from pipeline.jobs import IdempotencyKey
from pipeline.records import GenerationRequest

SESSION_HEADER = "X-Session-ID"
SESSION_COOKIE = "session_id"
SESSION_COOKIE_AGE_S = 30 * 24 * 3600
ANONYMOUS_OWNER = "public"  # the owner of everything as long as no API keys are wanted
SHARED_SESSION = "default"  # of an owner

# Documentation only: `AccessControl` authenticates before any route.
BEARER = HTTPBearer(auto_error=False, description="An API key, if the service wants one; it ignores it otherwise.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """One request's caller."""

    owner: str
    session: str  # whose last image is meant
    new_session: str | None  # for the cookie of a caller who has no session of its own yet
    request_id: str

    @property
    def sessions(self) -> tuple[str, ...]:
        """The sessions a new image becomes the last one of.

        A caller without one shares `default` with others of its kind, and is given a cookie: its image is recorded
        for both, so that it is found whether the cookie comes back or not.
        """
        return (self.session, self.new_session) if self.new_session else (self.session,)

    def set_session_cookie(self, response: Response) -> None:
        """Give a caller without a session its cookie."""
        if self.new_session:
            response.set_cookie(
                SESSION_COOKIE, self.new_session, max_age=SESSION_COOKIE_AGE_S, httponly=True, samesite="lax"
            )


async def find_caller(
    request: Request,
    _key: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
) -> Caller:
    """Return the authenticated caller with its session, of the header or else of the cookie.

    Raises:
        InvalidRequest: the header can't be a session id.
    """
    given = request.headers.get(SESSION_HEADER)
    if given is not None and not CLIENT_ID.fullmatch(given):
        raise InvalidRequest(problem=f"{SESSION_HEADER} {CLIENT_ID_IS}.")
    cookie = request.cookies.get(SESSION_COOKIE, "")
    own = given or (cookie if CLIENT_ID.fullmatch(cookie) else None)
    return Caller(
        owner=request.state.owner,
        session=own or SHARED_SESSION,
        new_session=None if own else secrets.token_urlsafe(18),
        request_id=request.state.request_id,
    )


AnyCaller = Annotated[Caller, Depends(find_caller)]


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


def orders_of(
    requests: Sequence[GenerationRequest], caller: Caller, key: IdempotencyKey | None
) -> list[GenerationJobSpec]:
    """The job specs of a call; of several images, each has the call's key with its own number."""
    return [
        GenerationJobSpec(
            request=request,
            owner=caller.owner,
            sessions=caller.sessions,
            request_id=caller.request_id,
            key=key if key is None or number == 0 else replace(key, key=f"{key.key}#{number}"),
        )
        for number, request in enumerate(requests)
    ]
