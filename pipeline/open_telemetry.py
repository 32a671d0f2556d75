"""Spans by OpenTelemetry; imported only where traces are on.

The provider is private to this module and never the global one, or libraries would add their spans: Ray Serve's don't
know which requests share a run, and FastAPI's contain query strings, which may hold prompts.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_NAMESPACE, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pipeline.settings import DATA_ROOT
from pipeline.traces import NOTHING, Fact, Kind, Span, Traces

NAMESPACE = "ai-pipeline"
FILE = "file:"
OTLP_PATH = "/v1/traces"  # appended to a collector's address without a path
EXPORT_EVERY_MS = 500  # a killed process loses the spans ended since
FILE_BUFFER_BYTES = 1 << 20  # each export is one write: several processes append to a file

_W3C = TraceContextTextMapPropagator()
_IDS = RandomIdGenerator()


class RecordedSpan(Span):
    """A span of a trace. In an unsampled trace it is its own child, and propagates the sampling decision."""

    def __init__(self, tracer: trace.Tracer, begun: trace.Span) -> None:
        context = begun.get_span_context()
        super().__init__(f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}")
        self._tracer = tracer
        self._begun = begun
        self._context = context

    @property
    def carried(self) -> dict[str, str]:
        return {"traceparent": self.traceparent}

    def child(self, name: str, *, kind: Kind = "internal", since_ns: int | None = None, **facts: Fact) -> Span:
        if not self._context.trace_flags.sampled:
            return self
        around = trace.set_span_in_context(self._begun, Context())
        return RecordedSpan(
            self._tracer,
            self._tracer.start_span(
                name, around, SpanKind[kind.upper()], facts, start_time=since_ns, record_exception=False
            ),
        )

    def rename(self, name: str) -> None:
        self._begun.update_name(name)

    def note(self, **facts: Fact) -> None:
        if self._begun.is_recording():  # work may outlive its caller's span
            self._begun.set_attributes(facts)

    def remark(self, name: str, **facts: Fact) -> None:
        if self._begun.is_recording():
            self._begun.add_event(name, facts)

    def fail(self, why: str) -> None:
        self._begun.set_status(StatusCode.ERROR, why)

    def link(self, other: Span) -> None:
        if isinstance(other, RecordedSpan):
            self._begun.add_link(other._context)

    def end(self, error: BaseException | None = None) -> None:
        if not self._begun.is_recording():
            return
        if isinstance(error, Exception):  # not the message: it may quote the request
            self.fail(type(error).__name__)
        elif error is not None:
            self.note(cancelled=True)
        self._begun.end()


class RecordedTraces(Traces):
    """Starts spans, and sends them to a processor.

    Args:
        processor: exports ended spans.
        component: the service's name in the spans, such as "Diffusion".
        ratio: of the traces started here that are sampled, 0 to 1.
    """

    def __init__(self, processor: SpanProcessor, component: str, ratio: float = 1.0) -> None:
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create(
                {
                    SERVICE_NAMESPACE: NAMESPACE,
                    SERVICE_NAME: component,
                    SERVICE_INSTANCE_ID: f"{socket.gethostname()}-{os.getpid()}",
                }
            ),
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(NAMESPACE)

    def of_request(
        self, method: str, traceparents: Sequence[str], tracestate: str = "", *, is_routine: bool = False
    ) -> Span:
        context = Context()
        if len(traceparents) == 1:
            context = _W3C.extract({"traceparent": traceparents[0], "tracestate": tracestate}, context)
        if is_routine and not context:
            context = trace.set_span_in_context(_unsampled(), context)
        return self._begin(context, method, "server", {"http.request.method": method})

    def under(self, traceparent: str, name: str, *, kind: Kind = "internal", **facts: Fact) -> Span:
        context = _W3C.extract({"traceparent": traceparent}, Context())
        return self._begin(context, name, kind, facts) if context else NOTHING

    def close(self) -> None:
        self._provider.shutdown()

    def _begin(self, context: Context, name: str, kind: Kind, facts: dict[str, Fact]) -> Span:
        begun = self._tracer.start_span(name, context, SpanKind[kind.upper()], facts, record_exception=False)
        return RecordedSpan(self._tracer, begun)


def exporting_to(to: str) -> SpanProcessor:
    """Return a processor that sends spans to a collector or appends them to a file, see `TraceSettings.to`."""
    return BatchSpanProcessor(_exporter(to), schedule_delay_millis=EXPORT_EVERY_MS)


def _exporter(to: str) -> SpanExporter:
    if to.startswith(FILE):
        path = DATA_ROOT / to.removeprefix(FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        return _File(out=path.open("a", buffering=FILE_BUFFER_BYTES), formatter=_line)
    return OTLPSpanExporter(endpoint=to if urlsplit(to).path.strip("/") else to.rstrip("/") + OTLP_PATH)


class _File(ConsoleSpanExporter):
    def shutdown(self) -> None:
        self.out.close()


def _line(ended: ReadableSpan) -> str:
    return f"{ended.to_json(indent=None)}\n"


def _unsampled() -> trace.Span:
    """Return the root of an unsampled trace."""
    context = SpanContext(_IDS.generate_trace_id(), _IDS.generate_span_id(), is_remote=False, trace_flags=TraceFlags())
    return NonRecordingSpan(context)
