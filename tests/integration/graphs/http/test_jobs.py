"""Jobs over HTTP with fakes: accepted, streamed, cancelled, retried, and run once per idempotency key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse

from graphs.generation import job_worker as job_runner
from pipeline.errors import ModelNotReady
from pipeline.jobs import MAX_ATTEMPTS
from testing.harness import Bench
from testing.waiting import cancel, until
from tests.integration.clients import client_of, is_problem

pytestmark = pytest.mark.anyio

ASYNC = {"Prefer": "respond-async"}
PEAR = {"prompt": "pear", "seed": 3, "steps": 3}


@pytest.fixture
async def client(bench: Bench, monkeypatch) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setattr(job_runner, "POLL_S", 0.05)
    async with client_of(bench) as client:
        yield client


async def ended(client: httpx.AsyncClient, url: str) -> dict:
    await events_of(client, url)
    return (await client.get(url)).json()


async def events_of(client: httpx.AsyncClient, url: str, after: str = "0") -> list[ServerSentEvent]:
    async with aconnect_sse(client, "GET", f"{url}/events", headers={"Last-Event-ID": after}) as source:
        return [event async for event in source.aiter_sse() if event.data]  # without heartbeats


async def test_a_job_is_accepted_at_once_and_results_in_an_image(client, bench):
    bench.workers.gate.clear()
    accepted = await client.post("/generate", json=PEAR, headers=ASYNC)
    job = accepted.json()
    assert (accepted.status_code, job["state"]) == (202, "running")
    assert accepted.headers["Location"] == job["url"] == f"/v1/jobs/{job['job_id']}"
    assert accepted.headers["Preference-Applied"] == "respond-async"
    bench.workers.gate.set()

    job = await ended(client, job["url"])
    assert (job["state"], job["attempts"], job["problem"]) == ("succeeded", 1, None)
    assert (await client.get(f"/v1/images/{job['result']['image_id']}")).json()["request"]["prompt"] == "pear"
    assert (await client.post("/segment")).json()["image_id"] == job["result"]["image_id"]  # the last image


async def test_every_image_has_a_job(client):
    generated = (await client.post("/generate", json=PEAR)).json()
    (job,) = (await client.get("/v1/jobs")).json()["jobs"]
    assert (job["state"], job["result"]) == ("succeeded", {"image_id": generated["image_id"]})


async def test_a_cancelled_job_stops(client, bench):
    bench.workers.gate.clear()
    url = (await client.post("/generate", json=PEAR, headers=ASYNC)).json()["url"]
    cancelled = await cancel(client, url)
    bench.workers.gate.set()
    assert cancelled["state"] == "cancelled"
    assert bench.workers.steps < PEAR["steps"]
    assert (await client.get("/v1/images")).json()["images"] == []
    assert (await client.post(f"{url}/cancel")).json() == cancelled


async def test_a_failed_job_reports_why_and_can_be_retried(client, bench):
    bench.workers.deaths["encode"] = 2 * MAX_ATTEMPTS
    key = {"Idempotency-Key": "order-66"}
    response = await client.post("/generate", json=PEAR, headers=key)
    assert is_problem(response, 503, "worker_lost")
    assert is_problem(await client.post("/generate", json=PEAR, headers=key), 409, "job_ended")  # it is not run again
    (job,) = (await client.get("/v1/jobs", params={"state": "dead"})).json()["jobs"]
    assert (job["attempts"], job["problem"]["code"]) == (MAX_ATTEMPTS, "worker_lost")
    assert "facts" not in job["problem"]

    assert (await client.post(f"{job['url']}/retry")).status_code == 202
    assert (await ended(client, job["url"]))["state"] == "succeeded"
    assert is_problem(await client.post(f"{job['url']}/retry"), 409, "job_not_retriable")


async def test_one_key_generates_one_image(client, bench):
    key = {"Idempotency-Key": "order-66"}
    bench.workers.gate.clear()
    first = asyncio.create_task(client.post("/generate", json=PEAR, headers=key))
    await until(lambda: bench.workers.calls["generate"] == 1)
    others = await asyncio.gather(*(client.post("/generate", json=PEAR, headers=key) for _ in range(99)))
    assert all(is_problem(other, 409, "job_running") for other in others)
    job = (await client.post("/generate", json=PEAR, headers=key | ASYNC)).json()  # returns the running job
    bench.workers.gate.set()

    generated = (await first).json()
    again = await asyncio.gather(*(client.post("/generate", json=PEAR, headers=key) for _ in range(20)))
    assert all((response.status_code, response.json()) == (200, generated) for response in again)
    assert (await client.get(job["url"])).json()["result"] == {"image_id": generated["image_id"]}
    assert bench.workers.calls["generate"] == 1

    other = await client.post("/generate", json=PEAR | {"seed": 4}, headers=key)
    assert is_problem(other, 422, "idempotency_mismatch")
    assert is_problem(
        await client.post("/generate", json=PEAR, headers={"Idempotency-Key": "two words"}), 422, "invalid_request"
    )


async def test_a_request_with_a_key_continues_after_a_disconnect(client, bench):
    key = {"Idempotency-Key": "order-66"}
    bench.workers.gate.clear()
    first = asyncio.create_task(client.post("/generate", json=PEAR, headers=key))
    await until(lambda: bench.workers.calls["generate"] == 1)
    first.cancel()
    bench.workers.gate.set()
    (job,) = (await client.get("/v1/jobs")).json()["jobs"]
    assert (await ended(client, job["url"]))["state"] == "succeeded"
    assert (await client.post("/generate", json=PEAR, headers=key)).json()["image_id"] == (
        await client.get(job["url"])
    ).json()["result"]["image_id"]


async def test_the_same_key_retries_a_job_that_failed_with_a_server_error(client, bench):
    key = {"Idempotency-Key": "order-66"}
    bench.workers.reason = "its weights are missing"
    generate = bench.workers.generate
    bench.workers.generate = not_ready
    assert is_problem(await client.post("/generate", json=PEAR, headers=key), 503, "model_not_ready")
    bench.workers.generate = generate
    bench.workers.reason = ""
    assert (await client.post("/generate", json=PEAR, headers=key)).status_code == 200
    (job,) = (await client.get("/v1/jobs")).json()["jobs"]
    assert job["state"] == "succeeded"


async def not_ready(*_):
    raise ModelNotReady(model="Diffusion", reason="its weights are missing")
    yield


async def test_the_events_of_a_job_are_streamed_from_the_start_and_resumed(client, bench):
    bench.workers.gate.clear()
    url = (await client.post("/generate", json=PEAR, headers=ASYNC)).json()["url"]
    following = asyncio.create_task(events_of(client, url))
    await until(lambda: bench.services.feed.num_streams == 1)
    bench.workers.gate.set()
    events = await following
    types = [event.event for event in events]
    assert types[:2] == ["job.submitted", "job.started"]
    assert types[-3:] == ["image.created", "job.succeeded", "generation.finished"]
    assert events[-1].json()["image_id"] == events[-2].json()["result"]["image_id"]

    created = next(event for event in events if event.event == "image.created")
    rest = [event.event for event in await events_of(client, url, created.id)]
    assert rest == ["job.succeeded", "generation.finished"]


async def test_a_closed_subscription_receives_no_final_event(client, bench):
    bench.workers.gate.clear()
    url = (await client.post("/generate", json=PEAR, headers=ASYNC)).json()["url"]
    following = asyncio.create_task(events_of(client, url))
    await until(lambda: bench.services.feed.num_streams == 1)
    bench.services.feed.close_subscriptions()
    events = await following
    assert [event.event for event in events] == ["job.submitted", "job.started"]

    bench.workers.gate.set()
    rest = [event.event for event in await events_of(client, url, events[-1].id)]
    assert rest[-3:] == ["image.created", "job.succeeded", "generation.finished"]


async def test_jobs_are_paginated(client):
    for seed in range(3):
        await client.post("/generate", json=PEAR | {"seed": seed})
    first = (await client.get("/v1/jobs", params={"limit": 2})).json()
    rest = (await client.get("/v1/jobs", params={"limit": 2, "before": first["next"]})).json()
    assert [job["request"]["seed"] for job in first["jobs"] + rest["jobs"]] == [2, 1, 0]
    assert rest["next"] is None


@pytest.mark.parametrize("path", ["", "/cancel", "/retry"])
async def test_an_unknown_job_is_not_found(client, path):
    method = "POST" if path else "GET"
    missing = await client.request(method, f"/v1/jobs/0198a3c0-0000-7000-8000-000000000000{path}")
    assert is_problem(missing, 404, "job_not_found")
    assert is_problem(await client.request(method, f"/v1/jobs/nonsense{path}"), 404, "job_not_found")
