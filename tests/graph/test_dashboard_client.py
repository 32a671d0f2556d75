"""The dashboard's client against the real HTTP application."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from httpx_sse import ServerSentEvent

import ui.client
from graphs.door import Door
from graphs.routes import build_http_app
from pipeline.jobs import MAX_ATTEMPTS
from pipeline.settings import Admission
from tests.graph.conftest import Bench, with_admission
from tests.graph.waiting import until
from ui.client import FINISHED, PipelineClient, ServiceError

pytestmark = pytest.mark.anyio

SSE = {"Content-Type": "text/event-stream"}


def client_of(bench: Bench, admission: Admission | None = None) -> PipelineClient:
    app = build_http_app(bench.flow, with_admission(bench, admission or Admission()))
    return PipelineClient("http://test", httpx.ASGITransport(app))


async def test_events_come_one_by_one_and_the_answer_last(bench: Bench):
    bench.workers.gate.clear()

    async def generate() -> list[ServerSentEvent]:
        return [event async for event in client_of(bench).generate("s", {"prompt": "pear", "steps": 2})]

    generating = asyncio.create_task(generate())
    await until(lambda: bench.flow.feed.num_streams == 1)
    bench.workers.gate.set()
    events = await generating

    assert [event.event for event in events].count("generation.stepped") == 2
    assert events[-1].event == FINISHED
    assert (await client_of(bench).image(events[-1].json()["image_id"]))["request"]["prompt"] == "pear"


async def test_a_service_that_wants_a_key_gets_the_dashboard_s(bench: Bench):
    _, token = bench.store.keys.create("ann")
    transport = httpx.ASGITransport(build_http_app(bench.flow, bench.settings, Door(bench.store.keys)))
    with pytest.raises(ServiceError) as refused:
        await PipelineClient("http://test", transport).history(9)
    assert refused.value.title == "Unauthorized"
    assert await PipelineClient("http://test", transport, api_key=token).history(9) == []


async def test_a_refusal_tells_what_to_do_and_its_request(bench: Bench):
    with pytest.raises(ServiceError) as refused:
        [event async for event in client_of(bench).generate("s", {"prompt": ""})]

    assert "send a few words" in refused.value.detail
    assert refused.value.request_id


async def test_a_failure_on_the_way_is_told_as_well(bench: Bench):
    bench.workers.deaths["generate"] = MAX_ATTEMPTS

    with pytest.raises(ServiceError) as failed:
        [event async for event in client_of(bench).generate("s", {"prompt": "pear"})]

    assert "was lost again and again" in failed.value.detail
    assert failed.value.request_id


async def test_a_stream_that_breaks_off_is_resumed_where_it_was(monkeypatch):
    monkeypatch.setattr(ui.client, "RESUME_PAUSE_S", 0.01)
    answers = iter(
        [
            httpx.Response(200, headers=SSE, text="id: 7\nevent: job.started\ndata: {}\n\n"),
            httpx.Response(503, text="the proxy knows nobody"),
            httpx.Response(200, headers=SSE, text=f"event: {FINISHED}\ndata: {{}}\n\n"),
        ]
    )
    resumed: list[str] = []

    async def serve(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(202, json={"url": "/v1/jobs/j"})
        resumed.append(request.headers["Last-Event-ID"])
        return next(answers)

    client = PipelineClient("http://test", httpx.MockTransport(serve))
    assert [event.event async for event in client.generate("s", {})] == ["job.started", FINISHED]
    assert resumed == ["0", "7", "7"]


async def test_a_stream_that_never_comes_back_is_no_success(monkeypatch):
    monkeypatch.setattr(ui.client, "RESUME_PAUSE_S", 0.01)
    monkeypatch.setattr(ui.client, "RESUME_WITHIN_S", 0.05)

    async def half(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(202, json={"url": "/v1/jobs/j"})
        return httpx.Response(503)

    with pytest.raises(ServiceError) as broken:
        [event async for event in PipelineClient("http://test", httpx.MockTransport(half)).generate("s", {})]

    assert broken.value.title == "Broken off"


async def test_closing_the_iterator_cancels_the_job(bench: Bench):
    client = client_of(bench)
    events = client.generate("s", {"prompt": "pear", "steps": 2})
    assert (await anext(events)).event == "job.submitted"
    await events.aclose()
    (job,) = (await client._json("GET", "/v1/jobs"))["jobs"]
    assert job["state"] in ("cancelled", "succeeded")  # it may have been done before anybody could stop it


async def test_a_service_that_is_not_there_is_said():
    with pytest.raises(ServiceError) as missing:
        await PipelineClient("http://127.0.0.1:9").about()

    assert "127.0.0.1:9" in missing.value.detail
