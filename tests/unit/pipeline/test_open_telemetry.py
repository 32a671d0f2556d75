"""Exporters of spans: to a collector with OTLP over HTTP, and into a file."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import SpanKind, get_current_span
from pydantic import ValidationError
from typer.testing import CliRunner

from cli import main
from cli.config import LaunchConfig
from pipeline.settings import TraceSettings
from pipeline.traces import open_traces, own_context, propagation, span, within
from testing.service_process import changed_config
from testing.tracing import CALLER, CALLER_TRACE, spans_in


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, ExportTraceServiceRequest]]]]:
    """Run a collector on this machine; yield its address and the requests it received, each with its path."""
    received: list[tuple[str, ExportTraceServiceRequest]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def record_spans(settings: TraceSettings) -> None:
    traces = open_traces(settings, "Diffusion")
    with traces.continued(CALLER, "outer", kind=SpanKind.SERVER) as context, within(context), span("inner", points=3):
        pass
    traces.close()


@pytest.mark.parametrize(("path", "expected"), [("", "/v1/traces"), ("/", "/v1/traces"), ("/otlp/t", "/otlp/t")])
def test_spans_are_exported_to_a_collector(path: str, expected: str):
    with collector() as (address, received):
        record_spans(TraceSettings(to=address + path))
    ((received_path, sent),) = received
    assert received_path == expected
    (resource,) = sent.resource_spans
    facts = {fact.key: fact.value.string_value for fact in resource.resource.attributes}
    assert (facts["service.namespace"], facts["service.name"]) == ("ai-pipeline", "Diffusion")
    inner, outer = resource.scope_spans[0].spans
    assert (inner.name, outer.name) == ("inner", "outer")
    assert inner.parent_span_id == outer.span_id
    assert {int.from_bytes(each.trace_id, "big") for each in (inner, outer)} == {CALLER_TRACE}


def test_several_processes_append_a_line_per_span_to_a_file(tmp_path: Path):
    path = tmp_path / "new" / "spans.jsonl"
    for _ in range(2):
        record_spans(TraceSettings(to=f"file:{path}"))
    assert [each["name"] for each in spans_in(path)] == ["inner", "outer"] * 2


@pytest.mark.parametrize("to", ["console", "file:", "grpc://127.0.0.1:4317", "http://", ""])
def test_an_invalid_destination_raises(to: str):
    with pytest.raises(ValidationError):
        TraceSettings(to=to)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--traces", "http://there:4318"], TraceSettings(to="http://there:4318", ratio=0.25)),
        (["--traces", "off", "--traces-ratio", "1"], TraceSettings(to="off")),
        (["--traces", "file:spans.jsonl"], TraceSettings(to=f"file:{Path.cwd() / 'spans.jsonl'}", ratio=0.25)),
        ([], TraceSettings(to="https://here/v1/traces", ratio=0.25)),
    ],
)
def test_the_command_line_overrides_the_configuration(tmp_path: Path, monkeypatch, arguments, expected):
    def configure(application: dict[str, Any]) -> None:
        application["args"]["traces"] = {"to": "https://here/v1/traces", "ratio": 0.25}

    parsed: list[LaunchConfig] = []
    monkeypatch.setattr(main, "check_exposure", lambda config, **_: parsed.append(config) or sys.exit())
    CliRunner().invoke(main.app, ["serve", "--serve-config", str(changed_config(tmp_path, configure)), *arguments])
    assert parsed[0].settings.traces == expected


def test_an_own_context_holds_only_the_current_span(tmp_path: Path):
    traces = open_traces(TraceSettings(to=f"file:{tmp_path / 'spans.jsonl'}"), "Ingress")
    with traces.request("GET", []) as context, within(context):
        assert own_context().run(get_current_span) is get_current_span(context)
    assert own_context().run(propagation) == {}
    traces.close()
