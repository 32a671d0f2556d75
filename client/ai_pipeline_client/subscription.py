"""A subscription to an event stream that resumes where it broke off: no stored event is missed or delivered twice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Dict, Optional, Union

import httpx
from httpx_sse import ServerSentEvent

from ai_pipeline_client.calls import Call
from ai_pipeline_client.errors import ConnectionFailed, PipelineError, error_from
from ai_pipeline_client.results import Event

RESUME_WITHIN_S = 120.0  # of a stream that broke off
RESUME_PAUSE_S = 0.5
EVENT_STREAM = "text/event-stream"
NO_CACHE = {"Accept": EVENT_STREAM, "Cache-Control": "no-store"}
PROBLEM = "error"  # the event that reports why the stream ends
STREAM_FINISHED = "stream.finished"  # the last event of a stream without follow


class Subscription:
    """What is known of one event stream, over all its connections.

    Args:
        path: the stream's path.
        after: the last event received; from now on if None.
        types: the event types to subscribe to; all if empty.
        request_id: only the events of this request.
        quiet_s: seconds without an event or heartbeat after which the stream has ended; never if None.
        follow: whether to continue after the events so far.
        is_service_up: whether the service is known to be up, so that the first connection is retried for a while, too.

    Attributes:
        has_ended: whether there is nothing more to read.
        problem: the error that the service ended it with.
    """

    def __init__(
        self,
        path: str,
        *,
        after: Union[int, str, None],
        types: Sequence[str] = (),
        request_id: Optional[str] = None,
        quiet_s: Optional[float] = None,
        follow: bool = True,
        is_service_up: bool = False,
    ) -> None:
        self.has_ended = False
        self.problem: Optional[PipelineError] = None
        self._path = path
        self._last_id = None if after is None else str(after)
        self._params: Dict[str, str] = {
            **({"type": ",".join(types)} if types else {}),
            **({"request_id": request_id} if request_id else {}),
            **({} if follow else {"follow": "false"}),
        }
        self._quiet_s = quiet_s
        self._received_at = time.monotonic() if is_service_up else None

    def call(self) -> Call[None]:
        """Return the request of the next connection, which continues after the last event."""
        return Call(
            method="GET",
            path=self._path,
            read=_check_stream,
            params=self._params,
            headers={**NO_CACHE, **({} if self._last_id is None else {"Last-Event-ID": self._last_id})},
            is_stream=True,
            quiet_s=self._quiet_s,
        )

    def connected(self) -> None:
        """Note that a connection is open."""
        self._received_at = self._received_at or time.monotonic()

    def receive(self, received: ServerSentEvent) -> Optional[Event]:
        """Note what was received; return the event unless it is a heartbeat or the stream's end."""
        self._received_at = time.monotonic()
        self._last_id = received.id or self._last_id
        if received.event == PROBLEM:
            self.problem, self.has_ended = error_from(received.json()), True
        elif received.event == STREAM_FINISHED:
            self.has_ended = True
        elif received.data:
            return _event(received)
        return None

    def fail(self, error: Union[PipelineError, httpx.TransportError]) -> None:
        """Note that the connection failed; the next one is to be opened after `RESUME_PAUSE_S`.

        Raises:
            ConnectionFailed: the stream broke off and can't be resumed.
            PipelineError: the error, if it is permanent or the stream never began.
        """
        if self._quiet_s is not None and isinstance(error, httpx.ReadTimeout):
            self.has_ended = True
            return
        if isinstance(error, PipelineError) and (self._received_at is None or not error.is_passing):
            raise error
        if self._received_at is not None and time.monotonic() - self._received_at > RESUME_WITHIN_S:
            raise ConnectionFailed(
                title="Broken off",
                detail=f"Nothing was heard for {RESUME_WITHIN_S:g} s. What was begun goes on: {self._path} says how.",
            ) from error


def _check_stream(response: httpx.Response) -> None:
    kind = response.headers.get("content-type", "")
    if not kind.startswith(EVENT_STREAM):
        raise ValueError(f"it is {kind or 'of no type'}, and not {EVENT_STREAM}")


def _event(received: ServerSentEvent) -> Event:
    facts: Dict[str, Any] = received.json()
    return Event.of(received.event, facts)
