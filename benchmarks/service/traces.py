"""Overhead of tracing for a recorded request: `python -m benchmarks traces`.

One service writes its spans to a file; one client interleaves recorded and unrecorded requests, so that other load on
the machine affects both. Prints the median of each and their ratio, with its minimum and maximum over rounds. Then,
without a service, the cost of a span with tracing off and on.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import timeit
from pathlib import Path

import httpx

from benchmarks.service.ingress import generate
from benchmarks.service.overview import show
from pipeline.settings import TraceSettings
from pipeline.traces import Traces, open_traces, span, within
from testing.service_process import changed_config, serving, tracing

ROUNDS = 7
CALLS = 100
SPANS = 1000
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"


def main() -> None:
    """Start the service and measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = changed_config(folder, lambda application: application["args"].update(reactions={"enabled": False}))
        with serving(folder, "--serve-config", str(config), *tracing(folder)) as service, service.client() as client:
            call = f"/segment?image_id={generate(service)}"
            rounds = [measure(client, call) for _ in range(ROUNDS + 1)][1:]
        ratios = [recorded / other for other, recorded in rounds]
        other, recorded = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = f"{recorded / other:.2f} x ({min(ratios):.2f}-{max(ratios):.2f})"
        show("cached /segment, not recorded / recorded, p50", f"{other:.1f} / {recorded:.1f} ms, {ratio}")
        show("a span where traces are off", f"{1e6 * seconds_of_span(Traces(), '1'):.2g} us")
        traces = open_traces(TraceSettings(to=f"file:{folder / 'spans.jsonl'}"), "benchmark")
        show("… not sampled", f"{1e6 * seconds_of_span(traces, '0'):.2g} us")
        show("… recorded", f"{1e6 * seconds_of_span(traces, '1'):.2g} us")
        traces.close()


def measure(client: httpx.Client, call: str) -> tuple[float, float]:
    """Median milliseconds of unrecorded and of recorded requests."""
    times: dict[str, list[float]] = {"0": [], "1": []}
    for _ in range(CALLS):
        for sampled, taken in times.items():
            started = time.perf_counter()
            client.post(call, headers={"traceparent": TRACE + sampled}).raise_for_status()
            taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(times["0"]), statistics.median(times["1"])


def seconds_of_span(traces: Traces, sampled: str) -> float:
    """Seconds to start and end a span."""

    def work() -> None:
        with span("part", points=64):
            pass

    with traces.request("GET", [TRACE + sampled]) as context, within(context):
        return timeit.timeit(work, number=SPANS) / SPANS
