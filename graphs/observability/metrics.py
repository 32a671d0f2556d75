"""The metrics as a consumer of events. Labels come from closed sets: never a prompt, never an id, never a raw path."""

from __future__ import annotations

from typing import Any, Protocol

from pipeline.events import (
    CacheBypassed,
    DomainEvent,
    GenerationStarted,
    ImageCreated,
    ImageProbed,
    ImageSegmented,
    PreviewShown,
    RequestFinished,
    ResultReused,
    StageFinished,
    StageRetried,
)

SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # the rest is the client's invention
REGIONS = [1, 2, 4, 8, 16, 32, 64, 128]


class Instruments(Protocol):
    """What makes instruments: the module `ray.serve.metrics`, or a registry of a test's own."""

    Counter: Any
    Gauge: Any
    Histogram: Any


class Metrics:
    """Counts and times what happens.

    Args:
        instruments: makes counters, gauges and histograms.
    """

    def __init__(self, instruments: Instruments) -> None:
        counter, histogram = instruments.Counter, instruments.Histogram
        self._requests = counter(
            "pipeline_requests", description="HTTP requests answered.", tag_keys=("route", "method", "status")
        )
        self._errors = counter(
            "pipeline_errors", description="HTTP requests refused or failed.", tag_keys=("route", "code")
        )
        self._request_seconds = histogram(
            "pipeline_request_seconds", description="From request to answer.", boundaries=SECONDS, tag_keys=("route",)
        )
        self._queue_seconds = histogram(
            "pipeline_queue_seconds",
            description="From a job's acceptance to the beginning of its work.",
            boundaries=SECONDS,
            tag_keys=(),
        )
        self._preview_seconds = histogram(
            "pipeline_first_preview_seconds",
            description="From a job's acceptance to the first look at its image.",
            boundaries=SECONDS,
            tag_keys=(),
        )
        self._stage_seconds = histogram(
            "pipeline_stage_seconds",
            description="A stage's own work, waiting for a worker included.",
            boundaries=SECONDS,
            tag_keys=("stage",),
        )
        self._regions = histogram(
            "pipeline_regions", description="Regions of each image segmented.", boundaries=REGIONS, tag_keys=()
        )
        self._reused = counter(
            "pipeline_results_reused",
            description="Results taken from memory, from the shared cache or from a run in progress.",
            tag_keys=("stage", "source"),
        )
        self._bypassed = counter(
            "pipeline_cache_bypassed", description="Cache calls that got no answer in time.", tag_keys=("operation",)
        )
        self._retried = counter(
            "pipeline_stage_retries", description="Stages begun again because their worker died.", tag_keys=("stage",)
        )
        self._in_hand = instruments.Gauge(
            "pipeline_in_hand", description="Pieces of work running or queued at this ingress.", tag_keys=("gate",)
        )

    def count(self, event: DomainEvent) -> None:
        """Take note of an event."""
        match event:
            case RequestFinished():
                route, status = event.route, str(event.status)
                method = event.method if event.method in METHODS else "other"
                self._requests.inc(tags={"route": route, "method": method, "status": status})
                self._request_seconds.observe(event.seconds, tags={"route": route})
                if event.code:
                    self._errors.inc(tags={"route": route, "code": event.code})
            case GenerationStarted():
                self._queue_seconds.observe(event.waited_s)
            case PreviewShown():
                self._preview_seconds.observe(event.seconds)
            case ImageCreated():
                self._stage_seconds.observe(event.seconds, tags={"stage": "generate"})
            case StageFinished():
                self._stage_seconds.observe(event.seconds, tags={"stage": event.stage})
                if isinstance(event, ImageSegmented):
                    self._regions.observe(event.num_regions)
            case ImageProbed():
                self._stage_seconds.observe(event.seconds, tags={"stage": "probe"})
            case ResultReused():
                self._reused.inc(tags={"stage": event.stage, "source": event.source})
            case CacheBypassed():
                self._bypassed.inc(tags={"operation": event.operation})
            case StageRetried():
                self._retried.inc(tags={"stage": event.stage})
            case _:
                pass

    def set_in_flight(self, gate: str, pieces: int) -> None:
        """Set the gauge of a gate; to be repeated every few seconds, or Ray's exporter forgets it."""
        self._in_hand.set(pieces, tags={"gate": gate})
