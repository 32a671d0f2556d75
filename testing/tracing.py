"""Traces kept in memory, and what may be said of all of them."""

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
    """How many spans of each name a file of them holds."""
    return Counter(span["name"] for span in spans_in(path))


def spans_in(path: Path) -> list[dict[str, Any]]:
    """The spans of a file, but for one that is just being written."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def ways_down(spans: list[dict[str, Any]]) -> set[str]:
    """The names on the way from the topmost known span to each of a file's, as "GET / > stage render"."""
    known = {span["context"]["span_id"]: span for span in spans}

    def way_down(span: dict[str, Any]) -> str:
        around = known.get(span["parent_id"])
        return f"{way_down(around)} > {span['name']}" if around else span["name"]

    return {way_down(span) for span in spans}


def way_up(span: ReadableSpan, spans: Iterable[ReadableSpan]) -> list[str]:
    """The names of a span and of those it is a part of, up to the last that is known."""
    known = {each.context.span_id: each for each in spans}
    names = [span.name]
    while span.parent is not None and span.parent.span_id in known:
        span = known[span.parent.span_id]
        names.append(span.name)
    return names


def ends_of_ways(spans: list[ReadableSpan]) -> set[str]:
    """Where the ways up of all spans end: the roots, and whatever has lost its parent."""
    return {way_up(span, spans)[-1] for span in spans}
