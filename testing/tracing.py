"""Traces kept in memory or read from files, and queries on them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pipeline.open_telemetry import RecordedTraces

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"  # the example of W3C's Trace Context
CALLER_UNSAMPLED = CALLER[:-1] + "0"
CALLER_TRACE, CALLER_SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


class KeptTraces(RecordedTraces):
    """Keeps every span that has ended."""

    def __init__(self, component: str = "Ingress", ratio: float = 1.0) -> None:
        self._kept = InMemorySpanExporter()
        super().__init__(SimpleSpanProcessor(self._kept), component, ratio)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._kept.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


def names_in(path: Path) -> Counter[str]:
    """Count the spans in a file by name."""
    return Counter(span["name"] for span in spans_in(path))


def spans_in(path: Path) -> list[dict[str, Any]]:
    """Return the spans in a file, except one that is still being written."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def ways_down(spans: list[dict[str, Any]]) -> set[str]:
    """Return the path of names from the topmost known span to each span, as "GET / > stage render"."""
    known = {span["context"]["span_id"]: span for span in spans}

    def way_down(span: dict[str, Any]) -> str:
        parent = known.get(span["parent_id"])
        return f"{way_down(parent)} > {span['name']}" if parent else span["name"]

    return {way_down(span) for span in spans}


def way_up(span: ReadableSpan, spans: Iterable[ReadableSpan]) -> list[str]:
    """Return the names of a span and its known ancestors."""
    known = {each.context.span_id: each for each in spans}
    names = [span.name]
    while span.parent is not None and span.parent.span_id in known:
        span = known[span.parent.span_id]
        names.append(span.name)
    return names


def ends_of_ways(spans: list[ReadableSpan]) -> set[str]:
    """Return the names of the topmost known ancestors of all spans: roots, and spans with a missing parent."""
    return {way_up(span, spans)[-1] for span in spans}
