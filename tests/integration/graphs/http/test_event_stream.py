"""The events of one request as server-sent events."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncGenerator

import cv2
import httpx
import numpy as np
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse
from opentelemetry.trace import INVALID_SPAN
from sqlalchemy import delete

from graphs.http import sse as event_stream
from graphs.http.app import build_http_app
from graphs.http.context import RequestContext
from graphs.http.sse import sse_response
from pipeline.jobs import MAX_ATTEMPTS
from pipeline.settings import AdmissionSettings
from pipeline.store import tables
from testing.harness import Bench, with_admission
from testing.waiting import PATIENCE_S, pass_time, until
from tests.integration.clients import client_of, is_problem, served

pytestmark = pytest.mark.anyio

PROMPT = {"prompt": "red apple", "steps": 3, "seed": 1}


async def events_of(client: httpx.AsyncClient, body: dict[str, object]) -> list[ServerSentEvent]:
    async with aconnect_sse(client, "POST", "/generate", json=body) as source:
        return [event async for event in source.aiter_sse()]


async def test_events_are_sent_in_order_and_the_result_last(bench: Bench):
    async with client_of(bench) as client:
        events = await events_of(client, PROMPT)
        plain = (await client.post("/generate", json=PROMPT)).json()

    assert [event.event for event in events] == [
        "job.submitted",
        "job.started",
        "generation.stepped",
        "generation.stepped",
        "generation.stepped",
        "image.created",
        "job.succeeded",
        "generation.finished",
    ]
    result = events[-1].json()
    assert result.keys() == plain.keys()
    assert result["generated_image"] == plain["generated_image"]


async def test_steps_have_previews(bench: Bench):
    async with client_of(bench) as client:
        steps = [event.json() for event in await events_of(client, PROMPT) if event.event == "generation.stepped"]

    assert [(step["step"], step["num_steps"]) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    for step in steps:
        preview = cv2.imdecode(np.frombuffer(base64.b64decode(step["preview"]), np.uint8), cv2.IMREAD_COLOR)
        assert preview.shape == (64, 64, 3)


async def test_a_stream_sets_the_last_image_of_the_session(bench: Bench):
    async with client_of(bench) as client:
        events = await events_of(client, PROMPT)
        segments = (await client.post("/segment")).json()

    assert segments["image_id"] == events[-1].json()["image_id"]


async def test_a_failure_before_the_first_event_has_its_own_status(bench: Bench):
    async with client_of(bench, AdmissionSettings()) as client:
        bench.workers.gate.clear()
        waiting = [asyncio.create_task(client.post("/generate", json=PROMPT)) for _ in range(8)]
        await until(lambda: len(bench.services.generation.admission) == 8)
        accept = {"Accept": "text/event-stream"}
        rejected = await client.post("/generate", json=PROMPT, headers=accept)
        wrong = await client.post("/generate", json=PROMPT | {"width": 7}, headers=accept)
        bench.workers.gate.set()
        await asyncio.gather(*waiting)

    assert is_problem(rejected, 429, "overloaded")
    assert is_problem(wrong, 422, "invalid_request")


async def test_a_later_failure_is_the_last_event(bench: Bench):
    bench.workers.deaths["generate"] = MAX_ATTEMPTS
    async with client_of(bench) as client:
        events = await events_of(client, PROMPT)

    assert events[-1].event == "error"
    problem = json.loads(events[-1].data)
    assert problem["code"] == "worker_lost"
    assert problem["request_id"] == bench.events[0].request_id


async def test_the_deadline_ends_the_stream_with_an_error_and_cancels_the_job(bench: Bench, monkeypatch):
    bench.workers.gate.clear()  # no step ever starts
    app = build_http_app(with_admission(bench, AdmissionSettings(deadline_s=600)))
    async with (
        served(app) as url,
        httpx.AsyncClient(base_url=url, timeout=None) as client,
        aconnect_sse(client, "POST", "/generate", json=PROMPT) as source,
    ):
        events = source.aiter_sse()
        await anext(events)
        pass_time(monkeypatch, seconds=601)
        *_, last = [event async for event in events]
        (job,) = (await client.get("/v1/jobs")).json()["jobs"]

    assert last.event == "error"
    assert "600 s" in last.json()["detail"]
    assert job["state"] == "cancelled"


async def test_the_deadline_is_reported_even_if_the_work_stops_slowly(monkeypatch):
    async def work() -> AsyncGenerator[bytes, None]:
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            pass_time(monkeypatch, seconds=4)
            await asyncio.sleep(0)

    async with asyncio.timeout(600) as deadline:
        scope = {"path": "/generate", "headers": []}
        RequestContext(request_id="r", span=INVALID_SPAN, deadline_s=600, deadline=deadline).attach(scope)
        response = await sse_response(scope, work(), bytes)
        chunks = response.body_iterator
        assert await anext(chunks) == b"begun"
        pass_time(monkeypatch, seconds=601)
        (last,) = [chunk async for chunk in chunks]
    assert b"deadline_exceeded" in last


async def test_a_quiet_stream_has_heartbeats_over_a_real_connection(bench: Bench, monkeypatch):
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.02)
    lines = []
    async with (
        served(build_http_app(bench.services)) as url,
        httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client,
        client.stream("GET", "/v1/events", params={"after": 0}) as response,
    ):
        async for line in response.aiter_lines():
            lines.append(line)
            if lines.count(": heartbeat") == 3:
                break
    assert lines[:2] == [": ready", "id: 0"]
    await until(lambda: bench.services.feed.num_streams == 0)


async def test_resuming_skips_deleted_events(bench: Bench):
    await bench.image(1)
    last = bench.store.log.newest()
    with bench.store.log.writing() as connection:
        connection.execute(delete(tables.events))  # as retention does
    await bench.image(2)
    async with (
        client_of(bench) as client,
        aconnect_sse(client, "GET", "/v1/events", params={"follow": False}, headers={"Last-Event-ID": "1"}) as source,
    ):
        events = [event async for event in source.aiter_sse() if event.data]
    assert events[-1].event == "stream.finished"
    assert [event.event for event in events[:-1]] == ["job.submitted", "job.started", "image.created", "job.succeeded"]
    assert [int(event.id) for event in events[:-1]] == [last + number for number in range(1, 5)]


async def test_events_are_also_listed_page_by_page(bench: Bench):
    headers = {"Accept": "application/json"}
    async with client_of(bench) as client:
        image = (await client.post("/v1/images", json=PROMPT)).json()["data"][0]
        first = (await client.get("/v1/events?limit=3", headers=headers)).json()
        rest = (await client.get(f"/v1/events?after={first['next']}", headers=headers)).json()
        by_type = (await client.get("/v1/events?type=job.succeeded&type=image.created", headers=headers)).json()
        streamed = (await client.get("/v1/events?after=0&follow=false&type=job.succeeded,image.created")).text
        unknown = await client.get("/v1/events?type=image.made", headers=headers)
        own = {"X-Request-ID": "mine"}
        await client.post("/v1/images", json=PROMPT | {"seeds": [2, 3]} | {"seed": None}, headers=own)
        of_request = (await client.get("/v1/events?request_id=mine", headers=headers)).json()["data"]
        stream = (await client.get("/v1/events?after=0&follow=false&request_id=mine")).text

    assert [event["type"] for event in first["data"] + rest["data"]] == [
        "job.submitted",
        "job.started",
        "image.created",
        "job.succeeded",
    ]
    assert (first["has_more"], rest["has_more"], rest["next"]) == (True, False, None)
    assert Counter(event["type"] for event in of_request) == dict.fromkeys(
        ("job.submitted", "job.started", "image.created", "job.succeeded"), 2
    )
    assert stream.count("event: job.succeeded") == 2
    assert [event["image_id"] for event in by_type["data"]] == [image["image_id"]] * 2
    sent = [json.loads(line.removeprefix("data: ")) for line in streamed.splitlines() if line.startswith('data: {"')]
    assert [(event["type"], event["event_id"]) for event in sent] == [
        (event["type"], event["event_id"]) for event in by_type["data"]
    ]
    assert is_problem(unknown, 422, "invalid_request")
    assert "image.created" in unknown.json()["detail"]
