"""Server-sent events: a request's progress, and streams of the event log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import orjson
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.responses import Response
from starlette.types import Scope

from graphs.http.context import RequestContext
from graphs.http.errors import error_response
from pipeline.errors import DeadlineExceeded, InternalError, PipelineError
from pipeline.event_records import EventRecord

T = TypeVar("T")

EVENT_STREAM = "text/event-stream"
FINISHED = "generation.finished"
FAILED = "error"
STREAM_FINISHED = "stream.finished"  # of a stream that ends by itself
STREAM_GRACE_S = 5.0  # after the request's deadline, for the work to stop and the stream to send its error
HEARTBEAT_S = 10.0


async def sse_response(scope: Scope, items: AsyncGenerator[T, None], encode: Callable[[T], bytes]) -> Response:
    """Send what happens as server-sent events, the last one an `error` if it fails.

    Raises:
        PipelineError: what failed before the first item, such as a refusal, gets its own status.
    """
    first = await anext(items)
    deadline = RequestContext.of(scope).deadline
    ends_at = deadline.when()
    if ends_at is not None:
        deadline.reschedule(ends_at + STREAM_GRACE_S)
    return EventSourceResponse(_with_first(scope, first, items, encode, ends_at), headers={"Cache-Control": "no-store"})


def live_sse_response(
    scope: Scope, items: AsyncGenerator[EventRecord | Response, None], after: int, *, says_end: bool = False
) -> Response:
    """Send event records as server-sent events, without a deadline, and with a heartbeat when it is quiet.

    Args:
        after: the sequence number they follow, for a reader who is cut off before the first.
        says_end: whether `stream.finished` follows the last of them, so that a reader knows that nothing was cut off.
    """
    RequestContext.of(scope).deadline.reschedule(None)
    return EventSourceResponse(_with_heartbeat(scope, items, after, says_end), headers={"Cache-Control": "no-store"})


async def _with_first(
    scope: Scope, first: T, items: AsyncGenerator[T, None], encode: Callable[[T], bytes], ends_at: float | None
) -> AsyncIterator[bytes]:
    async with aclosing(items):
        yield encode(first)
        limit = asyncio.timeout_at(ends_at)
        try:
            async with limit:
                async for item in items:
                    yield encode(item)
        except Exception as failure:
            error = DeadlineExceeded(deadline_s=RequestContext.of(scope).deadline_s) if limit.expired() else failure
            yield _encode_error(scope, error)
            if not isinstance(error, PipelineError):
                raise


async def _with_heartbeat(
    scope: Scope, items: AsyncGenerator[EventRecord | Response, None], after: int, says_end: bool
) -> AsyncIterator[bytes]:
    yield format_sse_event(comment="ready", id=str(after))
    following: asyncio.Future[EventRecord | Response] | None = None
    beat_at = time.monotonic() + HEARTBEAT_S
    try:
        while True:
            following = following or asyncio.ensure_future(anext(items))
            await asyncio.wait({following}, timeout=max(0.0, beat_at - time.monotonic()))
            if time.monotonic() >= beat_at:
                await RequestContext.of(scope).reauthenticate()  # its key may have been revoked
                yield format_sse_event(comment="heartbeat")
                beat_at = time.monotonic() + HEARTBEAT_S
            if not following.done():
                continue
            item, following = await following, None
            yield as_event(item)
    except StopAsyncIteration:
        if says_end:
            yield format_sse_event(event=STREAM_FINISHED, data_str="{}")
    except Exception as error:
        yield _encode_error(scope, error)
        if not isinstance(error, PipelineError):
            raise
    finally:
        if following is not None:
            following.cancel()
            await asyncio.wait({following})
        await items.aclose()


def as_event(item: EventRecord | Response) -> bytes:
    """A record as an event; an answer as the last one, `generation.finished`."""
    if isinstance(item, Response):
        return format_sse_event(event=FINISHED, data_str=bytes(item.body).decode())
    sequence = None if item.sequence is None else str(item.sequence)
    return format_sse_event(
        event=item.type, data_str=orjson.dumps(facts(item), option=orjson.OPT_UTC_Z).decode(), id=sequence
    )


def _encode_error(scope: Scope, error: Exception) -> bytes:
    known = error if isinstance(error, PipelineError) else InternalError()
    return format_sse_event(event=FAILED, data_str=bytes(error_response(scope, known).body).decode())


def facts(record: EventRecord) -> dict[str, Any]:
    """An event as clients get it."""
    about = {
        "type": record.type,
        "event_id": None if record.sequence is None else str(record.sequence),
        "sequence": record.sequence,
        "job_id": record.job_id,
        "image_id": record.image_id or (record.payload.get("result") or {}).get("image_id"),
        "created_at": record.created_at,
        "time": record.created_at,
    }
    return {name: value for name, value in about.items() if value is not None} | dict(record.payload)
