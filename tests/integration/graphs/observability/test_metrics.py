"""The metrics and tags that each event increments."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from graphs.observability.metrics import Metrics
from pipeline.events import (
    CacheBypassed,
    GenerationStarted,
    GenerationStepped,
    ImageCreated,
    ImageDescribed,
    ImageProbed,
    ImageSegmented,
    PreviewShown,
    RegionsDescribed,
    RegionsRendered,
    RequestFinished,
    ResultReused,
    StageRetried,
)
from tests.integration.graphs.observability.every_event import EVENTS, example


class Registry:
    """Creates instruments that record their values; each as strict as Ray's."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.recorded: list[tuple[str, float, dict[str, str]]] = []

    def instrument(self, *verbs: str):
        def create(name: str, description: str, tag_keys: tuple[str, ...] = (), boundaries: list[float] | None = None):
            assert description.endswith(".")
            assert boundaries == sorted(boundaries or []) or boundaries is None
            assert (boundaries is not None) == ("observe" in verbs)
            self.names.append(name)

            def record(value: float = 1.0, tags: dict[str, str] | None = None) -> None:
                assert (tags or {}).keys() == set(tag_keys)
                assert all(isinstance(tag, str) for tag in (tags or {}).values())
                self.recorded.append((name, value, tags or {}))

            return SimpleNamespace(**dict.fromkeys(verbs, record))

        return create


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def metrics(registry: Registry) -> Metrics:
    return Metrics(
        SimpleNamespace(
            Counter=registry.instrument("inc"),
            Gauge=registry.instrument("set"),
            Histogram=registry.instrument("observe"),
        )
    )


def stage_seconds(stage: str) -> tuple[str, float, dict[str, str]]:
    return ("pipeline_stage_seconds", 3.0, {"stage": stage})


def finished(status: int, code: str) -> RequestFinished:
    return example(RequestFinished, route="/generate", method="POST", status=status, code=code)


SUCCEEDED = ("pipeline_requests", 1.0, {"route": "/generate", "method": "POST", "status": "200"})
REJECTED = ("pipeline_requests", 1.0, {"route": "/generate", "method": "POST", "status": "429"})
CODED = ("pipeline_errors", 1.0, {"route": "/generate", "code": "overloaded"})
SEVEN_REGIONS = ("pipeline_regions", 7, {})
TIMED = ("pipeline_request_seconds", 3.0, {"route": "/generate"})


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (finished(200, ""), [SUCCEEDED, TIMED]),
        (
            finished(429, "overloaded"),
            [REJECTED, TIMED, CODED],
        ),
        (example(GenerationStarted), [("pipeline_queue_seconds", 3.0, {})]),
        (example(PreviewShown), [("pipeline_first_preview_seconds", 3.0, {})]),
        (example(GenerationStepped), []),
        (example(ImageCreated), [stage_seconds("generate")]),
        (example(ImageDescribed, stage="describe"), [stage_seconds("describe")]),
        (example(ImageSegmented, stage="segment", num_regions=7), [stage_seconds("segment"), SEVEN_REGIONS]),
        (example(RegionsDescribed, stage="describe_regions"), [stage_seconds("describe_regions")]),
        (example(RegionsRendered, stage="render"), [stage_seconds("render")]),
        (example(ImageProbed), [stage_seconds("probe")]),
        (
            example(ResultReused, stage="segment", source="cache"),
            [("pipeline_results_reused", 1.0, {"stage": "segment", "source": "cache"})],
        ),
        (example(CacheBypassed, operation="put"), [("pipeline_cache_bypassed", 1.0, {"operation": "put"})]),
        (example(StageRetried, stage="render"), [("pipeline_stage_retries", 1.0, {"stage": "render"})]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_event_updates_its_metrics(metrics, registry, event, expected):
    metrics.count(event)
    assert registry.recorded == expected


def test_no_tag_has_unbounded_cardinality(metrics, registry):
    for event in EVENTS:
        metrics.count(event)
    tags = {tag for _, _, tags in registry.recorded for tag in tags.values()}
    assert tags
    assert not tags & {"the-request_id", "the-image_id", "the-digest", "the-detail"}


def test_unknown_methods_are_counted_as_one(metrics, registry):
    for method in ("BREW", "WHEN"):
        metrics.count(example(RequestFinished, method=method))
    assert {tags["method"] for name, _, tags in registry.recorded if name == "pipeline_requests"} == {"other"}


def test_a_gate_has_a_gauge(metrics, registry):
    metrics.set_in_flight("images", 3)
    metrics.set_in_flight("analyses", 0)
    assert registry.recorded == [
        ("pipeline_in_hand", 3, {"gate": "images"}),
        ("pipeline_in_hand", 0, {"gate": "analyses"}),
    ]


def test_names_are_prometheus_names_with_our_prefix(metrics, registry):
    assert len(set(registry.names)) == len(registry.names)
    assert all(re.fullmatch(r"pipeline_[a-z_]+", name) for name in registry.names)
