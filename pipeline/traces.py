"""Traces: which work belongs to which request, across tasks, threads and processes.

Code that does work only uses `with span("its name"):`; where nothing is traced, that costs the look-up of a variable.
`Traces` starts or continues a trace where a process is entered: by an HTTP request, a job, or a call of a replica.
OpenTelemetry records and sends the spans, see `pipeline.open_telemetry`, and isn't imported where traces are off.

A span never contains a prompt or an owner: many can read spans.
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
    """A piece of work in a trace; this base class is a no-op and records nothing.

    As a context manager it ends with its block, which may run in several tasks, as a generator's does.
    """

    def __init__(self, traceparent: str = "") -> None:
        self.traceparent = traceparent  # in the format of W3C Trace Context; empty without a trace

    @property
    def carried(self) -> dict[str, str]:
        """The context that another process needs for child spans, as arguments of a call or as JSON."""
        return {}

    def child(self, name: str, *, kind: Kind = "internal", since_ns: int | None = None, **facts: Fact) -> Span:
        """Start a child span, now or at `since_ns` on the wall clock."""
        return NOTHING

    def rename(self, name: str) -> None:
        """Change the name, once the final one is known."""

    def note(self, **facts: Fact) -> None:
        """Set attributes."""

    def remark(self, name: str, **facts: Fact) -> None:
        """Add an event at this moment."""

    def fail(self, why: str) -> None:
        """Set the status to failed; `why` must not quote any input."""

    def link(self, other: Span) -> None:
        """Link to another span, whose work this one waits for."""

    def end(self, error: BaseException | None = None) -> None:
        """End the span, with an error if there was one; further calls have no effect."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)


NOTHING = Span()

_here: contextvars.ContextVar[Span] = contextvars.ContextVar("span", default=NOTHING)


def here() -> Span:
    """Return the current span."""
    return _here.get()


@contextmanager
def span(name: str, *, kind: Kind = "internal", **facts: Fact) -> Iterator[Span]:
    """Run the block in a child of the current span. Not for generators, see `Span`."""
    around = here()
    if around is NOTHING:
        yield NOTHING
        return
    with around.child(name, kind=kind, since_ns=None, **facts) as part, within(part):
        yield part


@contextmanager
def within(around: Span) -> Iterator[None]:
    """Make a span the current one during the block, without ending it."""
    before = _here.set(around)
    try:
        yield
    finally:
        _here.reset(before)


def own_context() -> contextvars.Context:
    """Return a context with only the current span: for tasks that outlive their request."""
    context = contextvars.Context()
    context.run(_here.set, here())
    return context


class Traces:
    """Starts the traces of a process; this base class records none."""

    def of_request(
        self, method: str, traceparents: Sequence[str], tracestate: str = "", *, is_routine: bool = False
    ) -> Span:
        """Start the span of an HTTP request.

        Args:
            method: of the request.
            traceparents: the values of the header; anything but a single valid one is ignored.
            tracestate: the value of that header.
            is_routine: a probe or a scrape, sampled only if its caller's trace is.
        """
        is_valid = len(traceparents) == 1 and TRACEPARENT.fullmatch(traceparents[0])
        return Span(traceparents[0]) if is_valid else NOTHING

    def under(self, traceparent: str, name: str, *, kind: Kind = "internal", **facts: Fact) -> Span:
        """Start a child span of another process's span; a no-op without one."""
        return NOTHING

    def close(self) -> None:
        """Send all spans that aren't sent yet; blocks."""


def open_traces(settings: TraceSettings, component: str) -> Traces:
    """Start sending spans to where the settings say.

    Args:
        settings: the destination and the sampling ratio.
        component: the name of this process's component, such as "Diffusion".
    """
    if settings.to == "off":
        return Traces()
    from pipeline.open_telemetry import RecordedTraces, exporting_to

    return RecordedTraces(exporting_to(settings.to), component, settings.ratio)
