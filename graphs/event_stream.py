"""The events of one request while they happen: for callers in this process, and as server-sent events over HTTP."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, TypeVar

import orjson
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.responses import Response
from starlette.types import Scope

from graphs.edge import problem
from pipeline import images
from pipeline.errors import DeadlineExceeded, PipelineError
from pipeline.events import Event, GenerationStepped, event_type

T = TypeVar("T")

FINISHED = "generation.finished"
FAILED = "error"
GRACE_S = 0.1  # before the request's deadline, after which nothing can be said any more


class Followers:
    """A consumer of events that hands them on to whoever follows their request."""

    def __init__(self) -> None:
        self._queues: defaultdict[str, list[asyncio.Queue[Event | None]]] = defaultdict(list)

    def notify(self, event: Event) -> None:
        """Take note of an event."""
        for queue in self._queues.get(event.request_id, ()):
            queue.put_nowait(event)

    async def follow(self, request_id: str, work: Coroutine[Any, Any, T]) -> AsyncGenerator[Event | T, None]:
        """Do a request's work; yield its events on the way, the result last. Closing the iterator stops the work."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._queues[request_id].append(queue)
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
            yield await task
        finally:
            task.cancel()
            self._queues[request_id].remove(queue)
            if not self._queues[request_id]:
                del self._queues[request_id]


async def stream(scope: Scope, items: AsyncGenerator[Event | Response, None]) -> Response:
    """Send events as server-sent events, the answer as the last one, `generation.finished`, or an `error`.

    Raises:
        PipelineError: what failed before the first event, such as a refusal, gets its own status.
    """
    first = await anext(items)
    return EventSourceResponse(_encode(scope, first, items), headers={"Cache-Control": "no-store"})


async def _encode(
    scope: Scope, first: Event | Response, items: AsyncGenerator[Event | Response, None]
) -> AsyncIterator[bytes]:
    async with aclosing(items):
        yield _encode_item(first)
        limit = asyncio.timeout_at(scope["state"]["ends_at"] - GRACE_S)
        try:
            async with limit:
                async for item in items:
                    yield _encode_item(item)
        except Exception as error:
            known = error if isinstance(error, PipelineError) else PipelineError()
            if limit.expired():
                error = known = DeadlineExceeded(deadline_s=scope["state"]["deadline_s"])
            yield format_sse_event(event=FAILED, data_str=bytes(problem(scope, known).body).decode())
            if known is not error:
                raise


def _encode_item(item: Event | Response) -> bytes:
    if isinstance(item, Response):
        return format_sse_event(event=FINISHED, data_str=bytes(item.body).decode())
    facts = asdict(item)
    if isinstance(item, GenerationStepped):
        png = None if item.preview is None else images.encode_png(item.preview)
        facts["preview"] = png and b64encode(png).decode()
    return format_sse_event(event=event_type(item), data_str=orjson.dumps(facts).decode())
