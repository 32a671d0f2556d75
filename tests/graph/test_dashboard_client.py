"""The dashboard's client against the real HTTP application."""

from __future__ import annotations

import httpx
import pytest

from graphs.routes import build_http_app
from pipeline.settings import Admission
from tests.graph.conftest import Bench
from ui.client import FINISHED, PipelineClient, ServiceError

pytestmark = pytest.mark.anyio


def client_of(bench: Bench, admission: Admission | None = None) -> PipelineClient:
    app = build_http_app(bench.flow, admission or Admission(), "cpu")
    return PipelineClient("http://test", httpx.ASGITransport(app))


async def test_events_come_one_by_one_and_the_answer_last(bench: Bench):
    events = [event async for event in client_of(bench).generate("s", {"prompt": "pear", "steps": 2})]

    assert [event.event for event in events].count("generation.stepped") == 2
    assert events[-1].event == FINISHED
    assert (await client_of(bench).image(events[-1].json()["image_id"]))["request"]["prompt"] == "pear"


async def test_a_refusal_tells_what_to_do_and_its_request(bench: Bench):
    with pytest.raises(ServiceError) as refused:
        [event async for event in client_of(bench).generate("s", {"prompt": ""})]

    assert "send a few words" in refused.value.detail
    assert refused.value.request_id


async def test_a_failure_on_the_way_is_told_as_well(bench: Bench):
    bench.workers.deaths["generate"] = 2

    with pytest.raises(ServiceError) as failed:
        [event async for event in client_of(bench).generate("s", {"prompt": "pear"})]

    assert failed.value.request_id == bench.events[0].request_id


async def test_the_deadline_ends_a_stream_with_an_error(bench: Bench):
    bench.workers.gate.clear()  # nothing ever comes

    with pytest.raises(ServiceError) as late:
        [event async for event in client_of(bench, Admission(deadline_s=0.5)).generate("s", {"prompt": "pear"})]

    assert "0.5 s" in late.value.detail


async def test_a_stream_that_breaks_off_is_no_success():
    async def half(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text="event: x\ndata: {}\n\n")

    with pytest.raises(ServiceError) as broken:
        [event async for event in PipelineClient("http://test", httpx.MockTransport(half)).generate("s", {})]

    assert broken.value.title == "Broken off"


async def test_a_service_that_is_not_there_is_said():
    with pytest.raises(ServiceError) as missing:
        await PipelineClient("http://127.0.0.1:9").about()

    assert "127.0.0.1:9" in missing.value.detail
