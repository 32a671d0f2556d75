"""Context of an HTTP request: id, trace, deadline, owner, session, and Idempotency-Key."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from opentelemetry.trace import Span
from starlette.responses import Response
from starlette.types import Scope

from graphs.generation.requests import GenerationJobSpec
from graphs.services import Services
from pipeline.api_keys import ApiKey
from pipeline.errors import InvalidRequest, PipelineError
from pipeline.jobs import IdempotencyKey
from pipeline.records import NO_ANNOTATIONS, Annotations, EditArea, GenerationRequest

CLIENT_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # an id of the client's making that is fit for logs
CLIENT_ID_IS = "must be 1 to 128 letters, digits or any of '.', '_', ':', '-'"

SESSION_HEADER = "X-Session-ID"
SESSION_COOKIE = "session_id"
SESSION_COOKIE_AGE_S = 30 * 24 * 3600
ANONYMOUS_OWNER = "public"  # the owner of everything as long as no API keys are wanted
SHARED_SESSION = "default"  # of an owner

QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})  # polled every few seconds by machines

_SCOPE_KEY = "ai_pipeline.request_context"

# Documentation only: `AccessControl` authenticates before any route.
BEARER = HTTPBearer(auto_error=False, description="An API key, if the service wants one; it ignores it otherwise.")


def path_of(scope: Scope) -> str:
    """The path as routes name it, whatever prefix the application is mounted at."""
    path: str = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
    return path


async def _always_authenticated() -> None:
    """Public routes have no key that could be revoked."""


@dataclass(kw_only=True, slots=True)
class RequestContext:
    """State of one request, made by `RequestMiddleware` and kept in its ASGI scope."""

    request_id: str
    span: Span
    deadline_s: float
    deadline: asyncio.Timeout  # ends the request; streams reschedule it
    started: float = field(default_factory=time.monotonic)
    owner: str = ANONYMOUS_OWNER
    key: ApiKey | None = None  # None where the service runs without keys
    reauthenticate: Callable[[], Awaitable[object]] = _always_authenticated  # raises once the key is revoked
    headers: dict[str, str] = field(default_factory=dict)  # of the response, whatever it is
    status: int = 0  # of the response, once it has begun
    error: PipelineError | None = None  # for the log

    @classmethod
    def of(cls, scope: Scope) -> RequestContext:
        """Return the context of a request."""
        context: RequestContext = scope[_SCOPE_KEY]
        return context

    def attach(self, scope: Scope) -> None:
        """Make this the context of a request."""
        scope[_SCOPE_KEY] = self


async def get_services(request: Request) -> Services:
    """Return the services of this process."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Owner and session of a request."""

    owner: str
    session: str  # whose last image is meant
    request_id: str
    new_session: str | None = None  # for the cookie of a legacy caller who has no session of its own yet

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


async def get_caller(
    request: Request,
    _key: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
) -> Caller:
    """Return the authenticated caller with its session, of the header or else of the cookie.

    Raises:
        InvalidRequest: the header can't be a session id.
    """
    context = RequestContext.of(request.scope)
    given = request.headers.get(SESSION_HEADER)
    if given is not None and not CLIENT_ID.fullmatch(given):
        raise InvalidRequest(problem=f"{SESSION_HEADER} {CLIENT_ID_IS}.")
    cookie = request.cookies.get(SESSION_COOKIE, "")
    own = given or (cookie if CLIENT_ID.fullmatch(cookie) else None)
    return Caller(
        owner=context.owner,
        session=own or SHARED_SESSION,
        request_id=context.request_id,
    )


CallerDep = Annotated[Caller, Depends(get_caller)]


async def get_legacy_caller(caller: CallerDep) -> Caller:
    """Return the caller of a legacy call, which gives those without a session one of their own."""
    return caller if caller.session != SHARED_SESSION else replace(caller, new_session=secrets.token_urlsafe(18))


LegacyCallerDep = Annotated[Caller, Depends(get_legacy_caller)]


KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The same key and body again: the same answer, and nothing is done twice. Kept like images.",
    ),
]


def idempotency_key(request: Request, header: str | None, body: bytes) -> IdempotencyKey | None:
    """The client's name for its request, bound to a fingerprint of what it sent.

    Raises:
        InvalidRequest: the header can't be a key.
    """
    if header is None:
        return None
    if not CLIENT_ID.fullmatch(header):
        raise InvalidRequest(problem=f"Idempotency-Key {CLIENT_ID_IS}.")
    fingerprinted = f"{request.method} {request.url.path}\0".encode() + body
    return IdempotencyKey(key=header, fingerprint=hashlib.sha256(fingerprinted).hexdigest())


async def get_key(request: Request, header: KeyHeader = None) -> IdempotencyKey | None:
    """Return the Idempotency-Key of a request with its body's fingerprint."""
    return idempotency_key(request, header, await request.body())


KeyDep = Annotated[IdempotencyKey | None, Depends(get_key)]


def job_specs(
    requests: Sequence[GenerationRequest],
    caller: Caller,
    key: IdempotencyKey | None,
    annotations: Annotations = NO_ANNOTATIONS,
    area: EditArea | None = None,
) -> list[GenerationJobSpec]:
    """The job specs of a call; of several images, each has the call's key with its own number."""
    return [
        GenerationJobSpec(
            request=request,
            owner=caller.owner,
            sessions=caller.sessions,
            request_id=caller.request_id,
            key=key if key is None or number == 0 else replace(key, key=f"{key.key}#{number}"),
            annotations=annotations,
            area=area,
        )
        for number, request in enumerate(requests)
    ]
