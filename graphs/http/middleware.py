"""The outermost layer of every HTTP request: id, trace, deadline, access control, body limit, one shape of errors."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from opentelemetry.trace import Span, StatusCode, get_current_span
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graphs.http.context import CLIENT_ID, QUIET_ROUTES, RequestContext, path_of
from graphs.http.errors import EDITS, error_response
from pipeline.errors import BodyTooLarge, DeadlineExceeded, InternalError, PipelineError
from pipeline.events import DomainEvent, RequestFinished
from pipeline.jobs import SERVER_ERROR
from pipeline.settings import AdmissionSettings
from pipeline.traces import Traces, traceparent_of, within

CLIENT_CLOSED_REQUEST = 499  # nginx's code for a client that hung up; only logs and metrics see it
UPLOADS = frozenset({"/v1/images/upload", EDITS})  # the routes whose bodies hold pictures

logger = logging.getLogger("ai_pipeline")


class RequestMiddleware:
    """ASGI middleware around the whole application.

    Reads the body ahead, up to the limit, so that no handler ever sees half of one; the body of a request that access
    control refuses is not read.

    Args:
        admit: access control: authenticates a request, and counts it as in flight until it is answered.
        traces: begins each request's trace, or continues the one it came in.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        admission: AdmissionSettings,
        admit: Callable[[Scope], AbstractAsyncContextManager[None]],
        emit: Callable[[DomainEvent], None],
        traces: Traces,
    ) -> None:
        self._app = app
        self._admission = admission
        self._admit = admit
        self._emit = emit
        self._traces = traces
        self._in_flight: set[str] = set()  # request ids: one that is sent again at the same time is replaced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        traced = self._traces.request(
            scope["method"],
            headers.getlist("traceparent"),
            headers.get("tracestate", ""),
            is_routine=path_of(scope) in QUIET_ROUTES,
        )
        given = headers.get("x-request-id", "")
        is_usable = CLIENT_ID.fullmatch(given) and given not in self._in_flight
        request_id = given if is_usable else str(uuid.uuid4())
        # Serve's proxy makes an id for requests without one and echoes it itself.
        send = _HeaderWriter(scope, send, echo="" if given else request_id)
        self._in_flight.add(request_id)
        try:
            with traced as context, within(context):
                await self._answer(request_id, get_current_span(), scope, receive, send)
        finally:
            self._in_flight.discard(request_id)

    async def _answer(self, request_id: str, span: Span, scope: Scope, receive: Receive, send: Send) -> None:
        deadline_s = self._admission.deadline_s
        context = RequestContext(
            request_id=request_id, span=span, deadline_s=deadline_s, deadline=asyncio.timeout(deadline_s)
        )
        context.attach(scope)
        try:
            async with context.deadline, self._admit(scope):
                body = await _read_body(scope, receive, self._body_limit(scope))
                await self._app(scope, _replay_body(body, receive), send)
        except (asyncio.CancelledError, ClientDisconnect) as gone:
            context.status = CLIENT_CLOSED_REQUEST
            if isinstance(gone, asyncio.CancelledError):
                raise
        except TimeoutError:
            await self._fail(DeadlineExceeded(deadline_s=deadline_s), scope, receive, send)
        except PipelineError as error:
            await self._fail(error, scope, receive, send)
        except Exception:
            logger.exception("Request %s failed unexpectedly", request_id)
            await self._fail(InternalError(), scope, receive, send)
        finally:
            self._emit(_finished(context, scope))

    def _body_limit(self, scope: Scope) -> int:
        is_upload = scope["method"] == "POST" and path_of(scope) in UPLOADS
        return self._admission.max_upload_bytes if is_upload else self._admission.max_body_bytes

    async def _fail(self, error: PipelineError, scope: Scope, receive: Receive, send: Send) -> None:
        if not RequestContext.of(scope).status:  # else the response has begun: all that is left is to break it off
            await error_response(scope, error)(scope, receive, send)


class _HeaderWriter:
    """Adds the headers that every response has, and notes its status.

    Args:
        echo: the request id to send; empty if the proxy sends it.
    """

    def __init__(self, scope: Scope, send: Send, echo: str) -> None:
        self._scope = scope
        self._send = send
        self._echo = echo

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            context = RequestContext.of(self._scope)
            context.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers.update(context.headers)
            if traceparent := traceparent_of(context.span):
                # The standard says nothing of responses; `traceresponse` is what a draft of it calls the same.
                headers.update({"traceparent": traceparent, "traceresponse": traceparent})
            if self._echo:
                headers.append("X-Request-ID", self._echo)
        await self._send(message)


def _finished(context: RequestContext, scope: Scope) -> RequestFinished:
    """Close a request's span, and return its access event."""
    error, span = context.error, context.span
    route = getattr(scope.get("route"), "path", "unmatched")
    status = context.status or CLIENT_CLOSED_REQUEST
    span.update_name(f"{scope['method']} {route}")
    span.set_attributes({"http.route": route, "http.response.status_code": status, "request_id": context.request_id})
    if error is not None:
        span.set_attribute("error.type", error.code)
    if status >= SERVER_ERROR:
        span.set_status(StatusCode.ERROR, error.code if error else str(status))
    return RequestFinished(
        request_id=context.request_id,
        route=route,
        method=scope["method"],
        status=status,
        seconds=time.monotonic() - context.started,
        code=error.code if error else "",
        detail=str(error) if error else "",
        is_routine=route in QUIET_ROUTES,
    )


async def _read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    declared = Headers(scope=scope).get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise BodyTooLarge(limit_bytes=limit_bytes)
    chunks: list[bytes] = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        size_bytes += len(chunks[-1])
        if size_bytes > limit_bytes:
            raise BodyTooLarge(limit_bytes=limit_bytes)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _replay_body(body: bytes, receive: Receive) -> Receive:
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        return next(messages, None) or await receive()

    return replay
