"""Recording and export of spans by OpenTelemetry's SDK; imported only where traces are on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_NAMESPACE, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, set_span_in_context

from pipeline.settings import DATA_ROOT
from pipeline.traces import Attribute, Traces, ending, extract, with_tracer

NAMESPACE = "ai-pipeline"
FILE = "file:"
OTLP_PATH = "/v1/traces"  # appended to a collector's address without a path
EXPORT_EVERY_MS = 500  # a killed process loses the spans ended since
FILE_BUFFER_BYTES = 1 << 20  # each export is one write: several processes append to a file

_IDS = RandomIdGenerator()


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

    @contextmanager
    def request(
        self, method: str, traceparents: Sequence[str], tracestate: str = "", *, is_routine: bool = False
    ) -> Iterator[Context]:
        context = extract(traceparents, tracestate)
        if is_routine and not context:
            context = set_span_in_context(_unsampled(), context)
        with self._started(context, method, SpanKind.SERVER, {"http.request.method": method}) as started:
            yield started

    @contextmanager
    def continued(
        self, traceparent: str, name: str, *, kind: SpanKind = SpanKind.INTERNAL, **attributes: Attribute
    ) -> Iterator[Context]:
        context = extract([traceparent])
        if not context:
            yield context
            return
        with self._started(context, name, kind, attributes) as started:
            yield started

    def close(self) -> None:
        self._provider.shutdown()

    @contextmanager
    def _started(
        self, context: Context, name: str, kind: SpanKind, attributes: dict[str, Attribute]
    ) -> Iterator[Context]:
        with ending(self._tracer.start_span(name, context, kind, attributes)) as started:
            yield with_tracer(self._tracer, set_span_in_context(started, context))


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


def _unsampled() -> Span:
    """Return the root of an unsampled trace."""
    context = SpanContext(_IDS.generate_trace_id(), _IDS.generate_span_id(), is_remote=False, trace_flags=TraceFlags())
    return NonRecordingSpan(context)
