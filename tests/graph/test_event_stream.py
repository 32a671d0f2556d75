"""One request's events as server-sent events."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator

import cv2
import httpx
import numpy as np
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse
from sqlalchemy import delete

from graphs.http import sse as event_stream
from graphs.http.app import build_http_app
from graphs.http.context import RequestContext
from graphs.http.sse import sse_response
from pipeline.jobs import MAX_ATTEMPTS
from pipeline.settings import Admission
from pipeline.store import tables
from pipeline.traces import NOTHING
from testing.harness import Bench, with_admission
from testing.waiting import PATIENCE_S, pass_time, until
from tests.graph.clients import client_of, is_problem, served

pytestmark = pytest.mark.anyio

PROMPT = {"prompt": "red apple", "steps": 3, "seed": 1}


async def events_of(client: httpx.AsyncClient, body: dict[str, object]) -> list[ServerSentEvent]:
    async with aconnect_sse(client, "POST", "/generate", json=body) as source:
        return [event async for event in source.aiter_sse()]


async def test_the_events_come_in_order_and_the_answer_last(bench: Bench):
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
    answer = events[-1].json()
    assert answer.keys() == plain.keys()
    assert answer["generated_image"] == plain["generated_image"]


async def test_steps_carry_previews(bench: Bench):
    async with client_of(bench) as client:
        steps = [event.json() for event in await events_of(client, PROMPT) if event.event == "generation.stepped"]

    assert [(step["step"], step["num_steps"]) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    for step in steps:
        preview = cv2.imdecode(np.frombuffer(base64.b64decode(step["preview"]), np.uint8), cv2.IMREAD_COLOR)
        assert preview.shape == (64, 64, 3)


async def test_a_stream_makes_a_last_image_as_any_call_does(bench: Bench):
    async with client_of(bench) as client:
        events = await events_of(client, PROMPT)
        segments = (await client.post("/segment")).json()

    assert segments["image_id"] == events[-1].json()["image_id"]


async def test_what_fails_before_the_first_event_has_its_own_status(bench: Bench):
    async with client_of(bench, Admission()) as client:
        bench.workers.gate.clear()
        waiting = [asyncio.create_task(client.post("/generate", json=PROMPT)) for _ in range(8)]
        await until(lambda: len(bench.services.generation.admission) == 8)
        accept = {"Accept": "text/event-stream"}
        refused = await client.post("/generate", json=PROMPT, headers=accept)
        wrong = await client.post("/generate", json=PROMPT | {"width": 7}, headers=accept)
        bench.workers.gate.set()
        await asyncio.gather(*waiting)

    assert is_problem(refused, 429, "overloaded")
    assert is_problem(wrong, 422, "invalid_request")


async def test_what_fails_later_is_the_last_event(bench: Bench):
    bench.workers.deaths["generate"] = MAX_ATTEMPTS
    async with client_of(bench) as client:
        events = await events_of(client, PROMPT)

    assert events[-1].event == "error"
    problem = json.loads(events[-1].data)
    assert problem["code"] == "worker_lost"
    assert problem["request_id"] == bench.events[0].request_id


async def test_the_deadline_ends_a_stream_with_an_error_and_the_job_with_it(bench: Bench, monkeypatch):
    bench.workers.gate.clear()  # nothing ever comes
    app = build_http_app(with_admission(bench, Admission(deadline_s=600)))
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


async def test_the_deadline_is_said_however_long_the_work_takes_to_stop(monkeypatch):
    async def work() -> AsyncGenerator[bytes, None]:
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            pass_time(monkeypatch, seconds=4)
            await asyncio.sleep(0)

    async with asyncio.timeout(600) as deadline:
        scope = {"path": "/generate", "headers": []}
        RequestContext(request_id="r", span=NOTHING, deadline_s=600, deadline=deadline).attach(scope)
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
        client.stream("GET", "/v1/events", params={"after": 0}) as answer,
    ):
        async for line in answer.aiter_lines():
            lines.append(line)
            if lines.count(": heartbeat") == 3:
                break
    assert lines[:2] == [": ready", "id: 0"]
    await until(lambda: bench.services.feed.num_streams == 0)


async def test_what_was_forgotten_is_passed_over_by_who_comes_back_for_it(bench: Bench):
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
