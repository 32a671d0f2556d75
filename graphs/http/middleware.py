"""The outermost layer of every HTTP request: id, trace, deadline, access control, body limit, one shape of errors."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graphs.http.openai_errors import EDITS, openai_error, openai_status, speaks_openai
from graphs.http.paths import QUIET_ROUTES, path_of
from pipeline.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    InvalidRequest,
    MalformedBody,
    MethodNotAllowed,
    PipelineError,
    RouteNotFound,
    Unauthorized,
)
from pipeline.events import Event, RequestFinished
from pipeline.jobs import SERVER_ERROR
from pipeline.settings import Admission
from pipeline.traces import Span, Traces, within

CLIENT_GONE = 499  # nginx's code for a client that hung up; only logs and metrics see it
UPLOADS = frozenset({"/v1/images/upload", EDITS})  # the routes whose bodies hold pictures
PROBLEM_JSON = "application/problem+json"

CLIENT_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # an id of the client's making that is fit for logs
CLIENT_ID_IS = "must be 1 to 128 letters, digits or any of '.', '_', ':', '-'"

logger = logging.getLogger("ai_pipeline")


class RequestMiddleware:
    """ASGI middleware around the whole application.

    Reads the body ahead, up to the limit, so that no handler ever sees half of one; the body of a request that access
    control refuses is not read.

    Args:
        enter: access control: authenticates a request, and counts it as in flight until it is answered.
        traces: begins each request's trace, or continues the one it came in.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        admission: Admission,
        enter: Callable[[Scope], AbstractAsyncContextManager[None]],
        emit: Callable[[Event], None],
        traces: Traces,
    ) -> None:
        self._app = app
        self._admission = admission
        self._enter = enter
        self._emit = emit
        self._traces = traces
        self._in_hand: set[str] = set()  # request ids: who sends one again at the same time gets another

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._span(scope) as span, within(span):
            await self._answer(_RequestState(scope, send, self._in_hand, span), scope, receive)

    def _span(self, scope: Scope) -> Span:
        headers = Headers(scope=scope)
        return self._traces.of_request(
            scope["method"],
            headers.getlist("traceparent"),
            headers.get("tracestate", ""),
            is_routine=path_of(scope) in QUIET_ROUTES,
        )

    async def _answer(self, call: _RequestState, scope: Scope, receive: Receive) -> None:
        try:
            async with asyncio.timeout(self._admission.deadline_s) as deadline, self._enter(scope):
                scope["state"] |= {"deadline_s": self._admission.deadline_s, "deadline": deadline}
                body = await _read(scope, receive, self._body_limit(scope))
                await self._app(scope, _replay(body, receive), call.send)
        except asyncio.CancelledError:
            call.status = CLIENT_GONE
            raise
        except TimeoutError:
            await call.fail(DeadlineExceeded(deadline_s=self._admission.deadline_s))
        except PipelineError as error:
            await call.fail(error)
        except Exception:
            logger.exception("Request %s failed unexpectedly", call.request_id)
            await call.fail(PipelineError())
        finally:
            self._in_hand.discard(call.request_id)
            self._emit(call.finished())

    def _body_limit(self, scope: Scope) -> int:
        is_upload = scope["method"] == "POST" and path_of(scope) in UPLOADS
        return self._admission.max_upload_bytes if is_upload else self._admission.max_body_bytes


class _RequestState:
    """One request on its way through."""

    def __init__(self, scope: Scope, send: Send, in_hand: set[str], span: Span) -> None:
        self._scope = scope
        self._send = send
        self._span = span
        self._started = time.monotonic()
        given = Headers(scope=scope).get("x-request-id", "")
        self._echo = not given  # Serve's proxy makes an id for requests without one and echoes it itself
        is_usable = CLIENT_ID.fullmatch(given) and given not in in_hand
        self.request_id = given if is_usable else str(uuid.uuid4())
        in_hand.add(self.request_id)
        self.status = 0
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers.update(self._scope["state"].get("headers", {}))
            if self._span.traceparent:
                # The standard says nothing of answers; `traceresponse` is what a draft of it calls the same.
                headers.update({"traceparent": self._span.traceparent, "traceresponse": self._span.traceparent})
            if self._echo:
                headers.append("X-Request-ID", self.request_id)
        await self._send(message)

    async def fail(self, error: PipelineError) -> None:
        if self.status:
            return  # the answer is under way: all that is left is to break it off
        response = problem(self._scope, error)
        await response(self._scope, _no_body, self.send)

    def finished(self) -> RequestFinished:
        error: PipelineError | None = self._scope["state"].get("error")
        route = getattr(self._scope.get("route"), "path", "unmatched")
        status = self.status or CLIENT_GONE
        self._span.rename(f"{self._scope['method']} {route}")
        self._span.note(**{"http.route": route, "http.response.status_code": status, "request_id": self.request_id})
        if error is not None:
            self._span.note(**{"error.type": error.code})
        if status >= SERVER_ERROR:
            self._span.fail(error.code if error else str(status))
        return RequestFinished(
            request_id=self.request_id,
            route=route,
            method=self._scope["method"],
            status=status,
            seconds=time.monotonic() - self._started,
            code=error.code if error else "",
            detail=str(error) if error else "",
            is_routine=route in QUIET_ROUTES,
        )


def problem(scope: Scope, error: PipelineError, **extra: Any) -> Response:
    """Answer an error as problem+json, or as OpenAI does where its clients ask, and note it for the log."""
    scope["state"]["error"] = error
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == Unauthorized.status:
        headers["WWW-Authenticate"] = "Bearer"  # RFC 6750
    if speaks_openai(scope):
        body = orjson.dumps(openai_error(error, extra.get("errors")))
        return Response(body, status_code=openai_status(error), media_type="application/json", headers=headers)
    content = {
        "type": f"urn:ai-pipeline:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": str(error),
        "code": error.code,
        "request_id": scope["state"]["request_id"],
        **extra,
    }
    return Response(orjson.dumps(content), status_code=error.status, media_type=PROBLEM_JSON, headers=headers)


def answer_errors(app: FastAPI) -> None:
    """Make the application answer every error it knows in the one shape."""

    @app.exception_handler(PipelineError)
    async def pipeline_error(request: Request, error: PipelineError) -> Response:
        return problem(request.scope, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return problem(request.scope, MalformedBody(problem=first["ctx"]["error"]))
        errors = [{"field": _field(e), "problem": e["msg"].removeprefix("Value error, ")} for e in error.errors()]
        sentence = "; ".join(f"{e['field']}: {e['problem']}" for e in errors)
        return problem(request.scope, InvalidRequest(problem=f"{sentence}."), errors=errors)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path}"
        if error.status_code == MethodNotAllowed.status:
            allowed = (error.headers or {})["Allow"]
            response = problem(request.scope, MethodNotAllowed(what=what, allowed=allowed))
            response.headers["Allow"] = allowed
            return response
        if error.status_code == RouteNotFound.status:
            return problem(request.scope, RouteNotFound(what=what))
        return problem(request.scope, MalformedBody(problem=error.detail))


def _field(error: dict[str, Any]) -> str:
    return ".".join(str(part) for part in error["loc"] if part != "body") or "body"


async def _read(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    declared = Headers(scope=scope).get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise BodyTooLarge(limit_bytes=limit_bytes)
    chunks: list[bytes] = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError
        chunks.append(message.get("body", b""))
        size_bytes += len(chunks[-1])
        if size_bytes > limit_bytes:
            raise BodyTooLarge(limit_bytes=limit_bytes)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        return next(messages, None) or await receive()

    return replay


async def _no_body() -> Message:
    return {"type": "http.disconnect"}
