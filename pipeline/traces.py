"""Traces: which work belongs to which request, across tasks, threads and processes, with OpenTelemetry's API.

Code that does work only uses `with span("its name"):`, a no-op where nothing is traced. `Traces` starts or continues a
trace where a process is entered: by an HTTP request, a job, or a call of a replica. `pipeline.open_telemetry` records
and exports the spans; its SDK isn't imported where traces are off.

The tracer is in the context, beside the current span, and never the global one, or libraries would add their spans: Ray
Serve's don't know which requests share a run, and FastAPI's contain query strings, which may hold prompts. A span
contains neither a prompt nor an owner, as many can read spans.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.context import Context, attach, create_key, detach, get_current, get_value, set_value
from opentelemetry.trace import (
    INVALID_SPAN,
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pipeline.settings import TraceSettings

Attribute = str | int | float | bool

_TRACER = create_key("ai-pipeline-tracer")
_W3C = TraceContextTextMapPropagator()


def start_span(
    name: str,
    *,
    context: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    start_time: int | None = None,
    **attributes: Attribute,
) -> Span:
    """Start a span, which the caller ends; a trace that isn't sampled has one non-recording span for everything.

    Args:
        name: of the work.
        context: has the parent; the current one if omitted.
        kind: client and server, on both sides of a call.
        start_time: in nanoseconds on the wall clock; now if omitted.
        attributes: of the span.
    """
    tracer, parent = _tracer_in(context), get_current_span(context)
    if tracer is None:
        return INVALID_SPAN
    if not parent.get_span_context().trace_flags.sampled:
        return parent
    return tracer.start_span(name, context, kind, attributes, start_time=start_time)


@contextmanager
def span(name: str, *, kind: SpanKind = SpanKind.INTERNAL, **attributes: Attribute) -> Iterator[Span]:
    """Run the block in a child of the current span. Not for generators, see `ending`."""
    if _tracer_in(None) is None:
        yield INVALID_SPAN
        return
    part = start_span(name, context=None, kind=kind, start_time=None, **attributes)
    with ending(part), within(set_span_in_context(part)):
        yield part


@contextmanager
def ending(part: Span) -> Iterator[Span]:
    """End a span with the block, which may run in several tasks, as a generator's does."""
    try:
        yield part
    except Exception as error:  # not the message: it may quote the request
        part.set_status(StatusCode.ERROR, type(error).__name__)
        raise
    except BaseException:
        part.set_attribute("cancelled", True)
        raise
    finally:
        part.end()


@contextmanager
def within(context: Context) -> Iterator[None]:
    """Make a context the current one during the block, without ending its span."""
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


def own_context() -> contextvars.Context:
    """Return a context with only the current span: for tasks that outlive their request."""
    own = contextvars.Context()
    own.run(attach, get_current())
    return own


def traceparent_of(part: Span) -> str:
    """Return a span's context in the format of W3C Trace Context; empty without a trace."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, set_span_in_context(part, Context()))
    return carrier.get("traceparent", "")


def propagation(part: Span | None = None) -> dict[str, str]:
    """Return what another process needs to continue the trace, as arguments of a call; nothing where traces are off.

    Args:
        part: the parent of its spans; the current one if omitted.
    """
    return {} if _tracer_in(None) is None else {"traceparent": traceparent_of(part or get_current_span())}


def with_tracer(tracer: Tracer, context: Context) -> Context:
    """Return a context whose spans are started by a tracer."""
    return set_value(_TRACER, tracer, context)


def extract(traceparents: Sequence[str], tracestate: str = "") -> Context:
    """Return a context with the caller's span; an empty one if there isn't exactly one valid `traceparent`."""
    if len(traceparents) != 1:
        return Context()
    return _W3C.extract({"traceparent": traceparents[0], "tracestate": tracestate}, Context())


def _tracer_in(context: Context | None) -> Tracer | None:
    tracer = get_value(_TRACER, context)
    return tracer if isinstance(tracer, Tracer) else None


class Traces:
    """Starts the traces of a process; this base class records none."""

    @contextmanager
    def request(
        self, method: str, traceparents: Sequence[str], tracestate: str = "", *, is_routine: bool = False
    ) -> Iterator[Context]:
        """Yield a context with the span of an HTTP request, which ends with the block.

        Args:
            method: of the request.
            traceparents: the values of the header; anything but a single valid one is ignored.
            tracestate: the value of that header.
            is_routine: a probe or a scrape, sampled only if its caller's trace is.
        """
        yield extract(traceparents)

    @contextmanager
    def continued(
        self, traceparent: str, name: str, *, kind: SpanKind = SpanKind.INTERNAL, **attributes: Attribute
    ) -> Iterator[Context]:
        """Yield a context with a child of another process's span, which ends with the block; empty without one."""
        yield Context()

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
