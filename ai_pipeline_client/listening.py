"""Streams of events that are resumed where they broke off: nothing that is kept is missed or told twice."""

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
PROBLEM = "error"  # the event that says why nothing more comes
STREAM_FINISHED = "stream.finished"  # the last event of a stream that isn't followed


class Listening:
    """One stream of events.

    Args:
        path: where it is served.
        after: the last event that is known; from now on if None.
        types: of the events that are wanted; all if empty.
        quiet_s: after which, if nothing is heard, the stream has ended; never if None.
        follow: whether to go on after what has happened so far.
        was_heard: whether the service is known to be there, so that a while is waited for the stream's begin as well.
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
        self._heard_at = time.monotonic() if was_heard else None
        self._is_open = False

    def next(self) -> Script[Event | None]:
        """Wait for the next event; None at the end, if it has one.

        Raises:
            ConnectionFailed: the stream broke off, and stays away.
            PipelineError: the service says why nothing more comes.
        """
        while True:
            try:
                said = yield from self._next()
            except PipelineError as error:
                self._is_open = False
                yield from self._wait(error)
            except httpx.TransportError as error:
                self._is_open = False
                if self._quiet_s is not None and isinstance(error, httpx.ReadTimeout):
                    return None
                yield from self._wait(error)
            else:
                if said is None:  # whoever served it is gone
                    self._is_open = False
                    yield Pause(seconds=RESUME_PAUSE_S)
                elif said.event == PROBLEM:
                    raise error_from(said.json())
                elif said.event == STREAM_FINISHED:
                    return None
                elif said.data:  # else a heartbeat
                    return _event(said)

    def _next(self) -> Script[ServerSentEvent | None]:
        if not self._is_open:
            yield from send(self._call())
            self._is_open = True
            self._heard_at = self._heard_at or time.monotonic()
        said: ServerSentEvent | None = yield Read()
        self._heard_at = time.monotonic()
        if said is not None:
            self._last_id = said.id or self._last_id
        return said

    def _wait(self, error: PipelineError | httpx.TransportError) -> Script[None]:
        """Wait a moment for a stream that broke off, if it may come back."""
        if isinstance(error, PipelineError) and (self._heard_at is None or not error.is_passing):
            raise error
        if self._heard_at is not None and time.monotonic() - self._heard_at > RESUME_WITHIN_S:
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
    """Iterate over what happens to one's images and jobs, for ever; a stream that breaks off is resumed.

    Args:
        after: the last event that is known, 0 for the beginning; from now on if None.
        types: only these, such as "image.created"; all if left out.
        quiet_s: end once nothing was heard for so long: what has happened was told. The service says something
            every 10 s at least.
        follow: False ends with what has happened so far; `after` is then 0 if left out.
    """
    return Items(_emitting(Listening("/v1/events", after=after, types=types, quiet_s=quiet_s, follow=follow)))


def follow(job_id: str, *, after: int = 0) -> Items[Event]:
    """Iterate over what happens to a job until it has ended; the last event is `generation.finished`.

    Args:
        after: the last event that is known; from the job's beginning on if left out.

    Raises:
        PipelineError: what the job failed with, or that it was cancelled.
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


def _event(said: ServerSentEvent) -> Event:
    facts: dict[str, Any] = said.json()
    return Event(
        type=said.event,
        sequence=facts.get("sequence"),
        job_id=facts.get("job_id"),
        image_id=facts.get("image_id"),
        facts=facts,
    )
