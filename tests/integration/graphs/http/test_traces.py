"""One trace per request, across stages, jobs and processes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from graphs.http.app import build_http_app
from graphs.http.auth import AccessControl
from pipeline.events import RequestFinished, ResultReused
from pipeline.settings import AdmissionSettings, OwnerLimits
from pipeline.traces import Traces
from testing.harness import Bench, make_bench, working
from testing.tracing import CALLER, CALLER_SPAN, CALLER_TRACE, CALLER_UNSAMPLED, KeptTraces, ends_of_ways, way_up
from testing.waiting import until

pytestmark = pytest.mark.anyio

TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]")
UNRECORDED = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[02]")
PEAR = {"prompt": "unmistakable pear", "seed": 3, "steps": 2}
SENT = {"traceparent": CALLER}


def client_of(bench: Bench, access_control: AccessControl | None = None) -> httpx.AsyncClient:
    app = build_http_app(bench.services, access_control)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@asynccontextmanager
async def serving(folder: Path, traces: Traces, **options) -> AsyncIterator[tuple[Bench, httpx.AsyncClient]]:
    bench = make_bench(folder, traces=traces, **options)
    async with working(bench), client_of(bench) as client:
        yield bench, client


@pytest.fixture
def traces() -> KeptTraces:
    return KeptTraces()


async def test_a_trace_contains_every_span_of_its_request(tmp_path: Path, traces: KeptTraces):
    async with serving(tmp_path, traces) as (_, client):
        generated = await client.post("/generate", json=PEAR, headers=SENT | {"X-Request-ID": "r-1"})
        seen = await client.post("/segment", json={"image_id": generated.json()["image_id"]}, headers=SENT)

    assert {span.context.trace_id for span in traces.spans} == {CALLER_TRACE}
    request, other = traces.one("POST /generate"), traces.one("POST /segment")
    assert request.parent.span_id == other.parent.span_id == CALLER_SPAN
    assert ends_of_ways(traces.spans) == {"POST /generate", "POST /segment"}
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/generate",
        "http.response.status_code": 200,
        "request_id": "r-1",
    }
    assert generated.headers["traceparent"] == f"00-{CALLER_TRACE:032x}-{request.context.span_id:016x}-01"
    assert generated.headers["traceparent"] == generated.headers["traceresponse"] != seen.headers["traceparent"]
    assert way_up(traces.one("store image"), traces.spans) == ["store image", "stage generate", "POST /generate"]
    assert way_up(traces.one("accept job"), traces.spans) == ["accept job", "POST /generate"]
    assert [way_up(span, traces.spans) for span in traces.named("stage describe")] == [
        ["stage describe", "POST /generate"],
        ["stage describe", "POST /segment"],  # for its warnings
    ]
    assert sorted(way_up(span, traces.spans)[1] for span in traces.named("cache acquire")) == [
        "stage describe",
        "stage describe_regions",
        "stage segment",
    ]


async def test_a_reused_result_records_its_source(tmp_path: Path, traces: KeptTraces):
    async with serving(tmp_path, traces) as (_, client):
        image_id = (await client.post("/generate", json=PEAR)).json()["image_id"]
        for _ in range(2):
            await client.post("/analyze", json={"image_id": image_id})
    sources = [span.attributes.get("source") for span in traces.named("stage segment")]
    assert sources == [None, "memory"]


INVALID = {
    "short": [CALLER[:-3]],
    "version ff": ["ff" + CALLER[2:]],
    "more than version 00 has": [CALLER + "-more"],
    "upper case": [CALLER.upper()],
    "no trace": [CALLER.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32)],
    "no span": [CALLER.replace("b7ad6b7169203331", "0" * 16)],
    "no text": ["\xff\xfe" + CALLER],
    "empty": [""],
    "two": [CALLER, CALLER],
}


@pytest.mark.parametrize("traces", [KeptTraces(), Traces()], ids=["on", "off"])
async def test_an_invalid_traceparent_is_ignored(tmp_path: Path, traces: Traces):
    async with client_of(make_bench(tmp_path, traces=traces)) as client:
        for case, sent in INVALID.items():
            response = await client.get("/v1/images", headers=[(b"traceparent", v.encode("latin-1")) for v in sent])
            returned = response.headers.get("traceparent", "")
            assert response.status_code == 200, case
            assert CALLER[3:35] not in returned.lower(), case
            assert bool(TRACEPARENT.fullmatch(returned)) is isinstance(traces, KeptTraces), case


@pytest.mark.parametrize("traces", [KeptTraces(), Traces()], ids=["on", "off"])
async def test_every_response_has_a_traceparent(tmp_path: Path, traces: Traces):
    calls = [
        ("GET", "/healthz", None, 200),
        ("GET", "/nowhere", None, 404),
        ("PUT", "/generate", None, 405),
        ("POST", "/generate", {"prompt": "x", "width": 7}, 422),
        ("POST", "/segment", None, 400),
        ("POST", "/generate", {"prompt": "x" * 2_000_000}, 413),
        ("POST", "/v1/embeddings", {"input": []}, 400),
    ]
    async with client_of(make_bench(tmp_path, traces=traces)) as client:
        for method, path, body, status in calls:
            response = await client.request(method, path, json=body, headers=SENT)
            assert response.status_code == status, path
            assert response.headers["traceparent"].split("-")[1] == CALLER.split("-")[1], path


async def test_requests_rejected_by_access_control_are_in_the_trace(tmp_path: Path, traces: KeptTraces):
    bench = make_bench(tmp_path, traces=traces)
    async with client_of(bench, AccessControl(limits=OwnerLimits(requests_per_minute=1))) as client:
        await client.get("/v1/images", headers=SENT)
        rejected = await client.get("/v1/images", headers=SENT)
    assert rejected.status_code == 429
    assert TRACEPARENT.fullmatch(rejected.headers["traceparent"])
    assert traces.spans[-1].attributes["error.type"] == "rate_limited"
    assert traces.spans[-1].status.is_unset  # it is the caller's fault


async def test_a_stream_is_one_span_until_its_end(tmp_path: Path, traces: KeptTraces):
    async with serving(tmp_path, traces) as (_, client):
        headers = SENT | {"Accept": "text/event-stream"}
        async with client.stream("POST", "/generate", json=PEAR, headers=headers) as response:
            assert TRACEPARENT.fullmatch(response.headers["traceparent"])
            text = (await response.aread()).decode()
    assert "generation.finished" in text
    request = traces.one("POST /generate")
    assert ends_of_ways(traces.spans) == {"POST /generate"}
    assert all(span.end_time <= request.end_time for span in traces.spans)


async def test_tracing_off_starts_no_span_and_returns_the_caller_s_traceparent(tmp_path: Path):
    async with serving(tmp_path, Traces()) as (bench, client):
        accepted = await client.post("/generate", json=PEAR, headers=SENT | {"Prefer": "respond-async"})
        plain = await client.get("/v1/images")
    assert accepted.headers["traceparent"] == CALLER
    assert "traceparent" not in plain.headers
    assert "traceparent" not in bench.store.jobs.get(accepted.json()["job_id"], "public").order.request


async def test_an_unsampled_trace_is_not_recorded(tmp_path: Path, traces: KeptTraces):
    async with serving(tmp_path, traces) as (_, client):
        response = await client.post("/generate", json=PEAR, headers={"traceparent": CALLER_UNSAMPLED})
    assert response.status_code == 200
    assert re.fullmatch(rf"00-{CALLER[3:35]}-[0-9a-f]{{16}}-00", response.headers["traceparent"])
    assert traces.spans == []


async def test_the_sampling_ratio_applies_to_requests_without_a_traceparent(tmp_path: Path):
    traces = KeptTraces(ratio=0.0)
    async with serving(tmp_path, traces) as (_, client):
        unknown = await client.post("/generate", json=PEAR)
        await client.get("/v1/images", headers=SENT)
    assert UNRECORDED.fullmatch(unknown.headers["traceparent"])
    assert [span.name for span in traces.spans] == ["GET /v1/images"]


async def test_routine_requests_are_recorded_only_if_the_caller_samples_them(tmp_path: Path, traces: KeptTraces):
    bench = make_bench(tmp_path, traces=traces)
    async with client_of(bench) as client:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert UNRECORDED.fullmatch((await client.get(path)).headers["traceparent"])
        assert traces.spans == []
        await client.get("/v1/images")
        assert [event.is_routine for event in bench.of(RequestFinished)] == [True, True, True, False]
        await client.get("/healthz", headers=SENT)
    assert [span.name for span in traces.spans] == ["GET /v1/images", "GET /healthz"]


async def test_a_caller_that_joins_a_run_is_linked_to_it(tmp_path: Path, traces: KeptTraces):
    async with serving(tmp_path, traces) as (bench, client):
        image_id = (await client.post("/generate", json=PEAR)).json()["image_id"]
        bench.workers.gate.clear()
        first = asyncio.create_task(client.post("/segment", json={"image_id": image_id}, headers=SENT))
        await until(lambda: bench.workers.calls["segment"])
        second = asyncio.create_task(client.post("/segment", json={"image_id": image_id}))
        await until(lambda: len([event for event in bench.of(ResultReused) if event.source == "run"]) == 3)
        bench.workers.gate.set()
        assert (await first).json()["segmented_regions"] == (await second).json()["segmented_regions"]

    own = [span for span in traces.named("stage segment") if span.context.trace_id == CALLER_TRACE]
    (started,) = [span for span in own if not span.links]  # the span of its own regions is linked to it as well
    (joined,) = [span for span in traces.named("stage segment") if span not in own]
    assert [link.context.span_id for link in joined.links] == [started.context.span_id]
    assert not [span for span in traces.spans if span.parent and span.parent.span_id == joined.context.span_id]


async def test_prefetch_belongs_to_the_trace_of_the_generation(tmp_path: Path, traces: KeptTraces):
    async with serving(tmp_path, traces, reacting=True) as (_, client):
        await client.post("/generate", json=PEAR, headers=SENT)
        await until(lambda: traces.named("reaction"))
    assert ends_of_ways(traces.spans) == {"POST /generate"}
    assert {"stage segment", "stage render"} <= {span.name for span in traces.spans}
    assert way_up(traces.one("stage render"), traces.spans)[1:3] == ["reaction", "stage generate"]


async def test_a_job_continues_its_trace_in_another_process(tmp_path: Path, traces: KeptTraces):
    idle = make_bench(tmp_path, AdmissionSettings(max_generations=0), traces=traces)
    worker_traces = KeptTraces()
    async with client_of(idle) as client:
        headers = SENT | {"Prefer": "respond-async"}
        job = (await client.post("/generate", json=PEAR, headers=headers)).json()
    async with serving(tmp_path, worker_traces) as (_, client):
        await until(lambda: worker_traces.named("stage generate"))
        settled = (await client.get(job["url"])).json()

    assert settled["state"] == "succeeded"
    assert "traceparent" not in settled["request"]
    work = worker_traces.one("stage generate")
    assert work.parent.span_id == traces.one("POST /generate").context.span_id
    assert (work.context.trace_id, work.attributes["job_id"]) == (CALLER_TRACE, job["job_id"])


async def test_a_lost_worker_and_a_failure_are_recorded(tmp_path: Path, traces: KeptTraces):
    async with serving(tmp_path, traces) as (bench, client):
        image_id = (await client.post("/generate", json=PEAR)).json()["image_id"]
        bench.workers.deaths["segment"] = 1
        await client.post("/analyze", json={"image_id": image_id})
        bench.workers.deaths["render"] = 2
        failed = await client.post("/visualize", json={"image_id": image_id})
    assert failed.status_code == 503
    assert [event.name for event in traces.named("stage segment")[0].events] == ["worker lost"]
    render, request = traces.one("stage render"), traces.one("POST /visualize")
    assert (render.status.is_ok, render.status.description) == (False, "WorkerLost")
    assert (request.status.is_ok, request.attributes["error.type"]) == (False, "worker_lost")


async def test_no_span_contains_a_prompt_or_an_owner(tmp_path: Path, traces: KeptTraces):
    async with serving(tmp_path, traces) as (_, client):
        generated = (await client.post("/generate", json=PEAR | {"negative_prompt": "unmistakable shadow"})).json()
        await client.post("/probe", json={"prompt": "unmistakable", "image_id": generated["image_id"]})
        await client.get("/v1/images", params={"prompt": "unmistakable"})
        await client.get("/unmistakable")
        await client.post("/generate", json={"prompt": "x", "scheduler": "unmistakable"})
    exported = [span.to_json() for span in traces.spans]
    assert len(exported) > 10
    assert not [text for text in exported if "unmistakable" in text or "public" in text]
