"""Event streams that resume where they broke off: no stored event is missed or delivered twice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import httpx
from httpx_sse import ServerSentEvent

from ai_pipeline_client.acts import Call, Close, Emit, Items, Pause, Read, Script, send
from ai_pipeline_client.errors import ConnectionFailed, PipelineError, error_from
from ai_pipeline_client.results import FINISHED, Event

RESUME_WITHIN_S = 120.0  # of a stream that broke off
RESUME_PAUSE_S = 0.5
EVENT_STREAM = "text/event-stream"
PROBLEM = "error"  # the event that reports why the stream ends
STREAM_FINISHED = "stream.finished"  # the last event of a stream without follow


class Listening:
    """A subscription to one event stream.

    Args:
        path: the stream's path.
        after: the last event received; from now on if None.
        types: the event types to subscribe to; all if empty.
        quiet_s: seconds without an event or heartbeat after which the stream has ended; never if None.
        follow: whether to continue after the events so far.
        was_heard: whether the service is known to be up, so that the first connection is retried for a while as well.
    """

    def __init__(
        self,
        path: str,
        *,
        after: int | None,
        types: Sequence[str] = (),
        quiet_s: float | None = None,
        follow: bool = True,
        was_heard: bool = False,
    ) -> None:
        self._path = path
        self._last_id = None if after is None else str(after)
        self._params = ({"type": ",".join(types)} if types else {}) | ({} if follow else {"follow": "false"})
        self._quiet_s = quiet_s
        self._received_at = time.monotonic() if was_heard else None
        self._is_open = False

    def next(self) -> Script[Event | None]:
        """Wait for the next event; None at the end of the stream, if it has one.

        Raises:
            ConnectionFailed: the stream broke off and could not be resumed.
            PipelineError: the service reports why the stream ends.
        """
        while True:
            try:
                event = yield from self._next()
            except PipelineError as error:
                self._is_open = False
                yield from self._wait(error)
            except httpx.TransportError as error:
                self._is_open = False
                if self._quiet_s is not None and isinstance(error, httpx.ReadTimeout):
                    return None
                yield from self._wait(error)
            else:
                if event is None:  # the replica that served it is gone
                    self._is_open = False
                    yield Pause(seconds=RESUME_PAUSE_S)
                elif event.event == PROBLEM:
                    raise error_from(event.json())
                elif event.event == STREAM_FINISHED:
                    return None
                elif event.data:  # else a heartbeat
                    return _event(event)

    def _next(self) -> Script[ServerSentEvent | None]:
        if not self._is_open:
            yield from send(self._call())
            self._is_open = True
            self._received_at = self._received_at or time.monotonic()
        event: ServerSentEvent | None = yield Read()
        self._received_at = time.monotonic()
        if event is not None:
            self._last_id = event.id or self._last_id
        return event

    def _wait(self, error: PipelineError | httpx.TransportError) -> Script[None]:
        """Pause before resuming a stream that broke off; raises if it can't be resumed."""
        if isinstance(error, PipelineError) and (self._received_at is None or not error.is_passing):
            raise error
        if self._received_at is not None and time.monotonic() - self._received_at > RESUME_WITHIN_S:
            raise ConnectionFailed(
                title="Broken off",
                detail=f"Nothing was heard for {RESUME_WITHIN_S:g} s. What was begun goes on: {self._path} says how.",
            ) from error
        yield Pause(seconds=RESUME_PAUSE_S)

    def _call(self) -> Call[None]:
        return Call(
            method="GET",
            path=self._path,
            read=_check_stream,
            params=self._params,
            headers={} if self._last_id is None else {"Last-Event-ID": self._last_id},
            is_stream=True,
            quiet_s=self._quiet_s,
        )


def events(
    *, after: int | None = None, types: Sequence[str] = (), quiet_s: float | None = None, follow: bool = True
) -> Items[Event]:
    """Subscribe to the events of one's images and jobs, without end; a stream that breaks off is resumed.

    Args:
        after: the last event received, 0 for the beginning; from now on if None.
        types: only these, such as "image.created"; all if left out.
        quiet_s: end after so many seconds without an event or heartbeat, when all events were delivered. The service
            sends one every 10 s at least.
        follow: False ends after the events so far; `after` then defaults to 0.
    """
    return Items(_emitting(Listening("/v1/events", after=after, types=types, quiet_s=quiet_s, follow=follow)))


def follow(job_id: str, *, after: int = 0) -> Items[Event]:
    """Subscribe to a job's events until it has ended; the last one is `generation.finished`.

    Args:
        after: the last event received; from the job's beginning if left out.

    Raises:
        PipelineError: the error that the job failed with, or that it was cancelled.
    """
    return Items(_emitting(Listening(f"/v1/jobs/{job_id}/events", after=after)))


def _emitting(listening: Listening) -> Script[None]:
    while (event := (yield from listening.next())) is not None:
        yield Emit(item=event)
        if event.type == FINISHED:
            break
    yield Close()


def _check_stream(answer: httpx.Response) -> None:
    kind = answer.headers.get("content-type", "")
    if not kind.startswith(EVENT_STREAM):
        raise ValueError(f"it is {kind or 'of no type'}, and not {EVENT_STREAM}")


def _event(received: ServerSentEvent) -> Event:
    facts: dict[str, Any] = received.json()
    return Event(
        type=received.event,
        sequence=facts.get("sequence"),
        job_id=facts.get("job_id"),
        image_id=facts.get("image_id"),
        facts=facts,
    )
