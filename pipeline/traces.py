"""Traces: which piece of work belongs to which request, across tasks, threads and processes.

Work says `with span("its name"):` and knows no more; where nothing is traced, that costs a look at a variable. Traces
begin, and go on, at the edge of a process: `Traces` does that for an HTTP request, a job, and a call of a replica.
OpenTelemetry makes and sends the spans, see `pipeline.open_telemetry`, and isn't imported where traces are off.

No prompt and no owner ever stands in a span: spans reach many eyes.
"""

from __future__ import annotations

import contextvars
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, Self

from pipeline.settings import TraceSettings

Fact = str | int | float | bool
Kind = Literal["internal", "server", "client"]

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Span:
    """A piece of work in a trace; this one, and whatever is done with it, is recorded nowhere.

    As a context manager it ends with its block. That may run in several tasks, as a generator's does.
    """

    def __init__(self, traceparent: str = "") -> None:
        self.traceparent = traceparent  # as W3C's Trace Context writes it; empty if it is in no trace

    @property
    def carried(self) -> dict[str, str]:
        """What another process needs to go on under it, as arguments of a call or as JSON."""
        return {}

    def child(self, name: str, *, kind: Kind = "internal", since_ns: int | None = None, **facts: Fact) -> Span:
        """Begin a part of it, or note one that began at `since_ns` of the wall clock."""
        return NOTHING

    def rename(self, name: str) -> None:
        """Call it what turned out to be its name."""

    def note(self, **facts: Fact) -> None:
        """Say more about it."""

    def remark(self, name: str, **facts: Fact) -> None:
        """Say that something happened meanwhile, now."""

    def fail(self, why: str) -> None:
        """Say that it failed, in words that quote nobody."""

    def link(self, other: Span) -> None:
        """Say that it waits for work that belongs under another."""

    def end(self, error: BaseException | None = None) -> None:
        """End it, by an error if there was one; once is enough, more does no harm."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)


NOTHING = Span()

_here: contextvars.ContextVar[Span] = contextvars.ContextVar("span", default=NOTHING)


def here() -> Span:
    """The span whose work this is."""
    return _here.get()


@contextmanager
def span(name: str, *, kind: Kind = "internal", **facts: Fact) -> Iterator[Span]:
    """Do the block's work in a span of its own, a part of the one around it. Not for generators, see `Span`."""
    around = here()
    if around is NOTHING:
        yield NOTHING
        return
    with around.child(name, kind=kind, since_ns=None, **facts) as part, within(part):
        yield part


@contextmanager
def within(around: Span) -> Iterator[None]:
    """Do the block's work in a span that others end."""
    before = _here.set(around)
    try:
        yield
    finally:
        _here.reset(before)


def own_context() -> contextvars.Context:
    """A context that holds the span and nothing else: for tasks that aren't cancelled with the request around them."""
    context = contextvars.Context()
    context.run(_here.set, here())
    return context


class Traces:
    """Begins the traces of a process; this one records none."""

    def of_request(
        self, method: str, traceparents: Sequence[str], tracestate: str = "", *, is_routine: bool = False
    ) -> Span:
        """Begin the span of an HTTP request.

        Args:
            method: of the request.
            traceparents: the values of the header; what isn't a single valid one counts as none.
            tracestate: the value of that header.
            is_routine: recorded only if its caller records it, as questions that machines ask every few seconds.
        """
        is_valid = len(traceparents) == 1 and TRACEPARENT.fullmatch(traceparents[0])
        return Span(traceparents[0]) if is_valid else NOTHING

    def under(self, traceparent: str, name: str, *, kind: Kind = "internal", **facts: Fact) -> Span:
        """Begin a span under one of another process; of nothing if that recorded none."""
        return NOTHING

    def close(self) -> None:
        """Send what isn't sent yet; blocks."""


def open_traces(settings: TraceSettings, component: str) -> Traces:
    """Begin to send spans where the settings say.

    Args:
        settings: of the service.
        component: which part of it this process is, such as "Diffusion".
    """
    if settings.to == "off":
        return Traces()
    from pipeline.open_telemetry import RecordedTraces, exporting_to

    return RecordedTraces(exporting_to(settings.to), component, settings.ratio)
