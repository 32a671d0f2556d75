"""Both clients with network faults and callers that cancel: nothing is repeated, lost, or left behind."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from ai_pipeline_client import (
    ConnectionFailed,
    NotFound,
    Overloaded,
    Progress,
    ServiceUnavailable,
    UnexpectedAnswer,
    subscription,
)
from testing.harness import Bench
from testing.waiting import until
from tests.integration.clients import Fault, InStep, client_at, steps_into

pytestmark = pytest.mark.anyio

NO_BYTES = 0


class Abandoned(Exception):
    """Raised by a test that abandons the call."""


def first_requests(path: str, *faults: Exception | httpx.Response | int) -> Fault:
    """Inject these faults into the first requests of paths that end so."""
    pending = iter(faults)
    return lambda request: next(pending, None) if request.url.path.endswith(path) else None


async def test_transient_failures_are_retried(url, kind):
    fault = first_requests(
        "/v1/images",
        httpx.ConnectError("connection refused"),
        httpx.Response(503, headers={"Retry-After": "0"}, json={"detail": "Come back.", "code": "overloaded"}),
        httpx.Response(500, text="Internal Server Error"),  # as the proxy responds when a replica dies
        NO_BYTES,
    )
    async with client_at(url, kind, fault) as client:
        assert len(await client.images.page()) == 0


async def test_a_retried_request_creates_one_image(url, kind, bench):
    async with client_at(url, kind, first_requests("/v1/images", NO_BYTES, NO_BYTES)) as client:
        image = await client.images.generate("pear", steps=2)
        assert [stored.image_id for stored in await client.images.page()] == [image.image_id]
        assert len(await client.jobs.page()) == bench.workers.calls["generate"] == 1


async def test_a_retried_upload_is_stored_once(url, kind):
    async with client_at(url, kind, first_requests("/upload", NO_BYTES)) as client:
        image = await client.images.generate("pear", steps=2)
        uploaded = await client.images.upload(await image.bytes())
        assert [stored.image_id for stored in await client.images.page()] == [uploaded.image_id, image.image_id]


async def test_a_call_that_is_not_idempotent_is_not_retried(url, kind):
    async with client_at(url, kind, first_requests("/retry", NO_BYTES, NO_BYTES)) as client:
        (job,) = await client.images.submit("pear", steps=50)
        await client.jobs.cancel(job)
        with pytest.raises(ConnectionFailed, match="broke off") as broken:
            await client.jobs.retry(job)
        assert isinstance(broken.value.__cause__, httpx.ReadError)
        assert not (await client.jobs.get(job)).cancel_requested  # the retry was received


async def test_the_number_of_retries_is_limited(url, kind):
    rejections = [httpx.Response(429, json={"detail": "Too much.", "code": "overloaded"}) for _ in range(5)]
    async with client_at(url, kind, first_requests("/v1/images", *rejections)) as client:
        with pytest.raises(Overloaded, match="Too much"):
            await client.images.page()
        assert len(await client.images.page()) == 0


async def test_an_interrupted_stream_is_resumed_from_its_last_event(url, kind, bench):
    resumed: list[str] = []
    faults: list = [httpx.Response(503, text="no replica"), 600, 10, None]

    def fault(request: httpx.Request):
        if not request.url.path.endswith("/events"):
            return None
        resumed.append(request.headers["Last-Event-ID"])
        return faults.pop(0) if faults else None

    generated = await _generated(url, kind, bench, fault)
    sequences = [int(last_id) for last_id in resumed]
    assert sequences[:2] == [0, 0]
    assert sequences == sorted(sequences)
    assert sequences[-1] > 0
    assert generated.parameters.prompt == "pear"


async def _generated(url: str, kind: str, bench: Bench, fault: Fault):
    bench.workers.gate.clear()
    async with client_at(url, kind, fault) as client:
        generating = asyncio.create_task(client.images.generate("pear", steps=6, on_progress=lambda _: None))
        await until(lambda: bench.services.feed.num_streams == 1)
        bench.workers.gate.set()
        return await generating


async def test_each_event_is_received_once_over_a_connection_that_keeps_breaking(url, kind):
    async with client_at(url, kind, first_requests("/events", *range(100, 900, 200))) as client:
        for seed in range(3):
            await client.images.submit("pear", steps=2, seed=seed)
        events = await client.first("events.stream", 3 * 4, after=0)
        sequences = [event.sequence for event in events if event.sequence]
        assert sequences == sorted(set(sequences))
        assert [event.type for event in events].count("job.succeeded") == 3


async def test_a_stream_that_cannot_be_resumed_raises(url, kind, bench, monkeypatch):
    monkeypatch.setattr(subscription, "RESUME_WITHIN_S", 0.0)
    bench.workers.gate.clear()
    faults: list = [10]

    def fault(request: httpx.Request):
        if not request.url.path.endswith("/events"):
            return None
        return faults.pop() if faults else httpx.ConnectError("connection refused")

    async with client_at(url, kind, fault) as client:
        with pytest.raises(ConnectionFailed, match="goes on: /v1/jobs/") as broken:
            await client.images.generate("pear")
        assert broken.value.title == "Broken off"
        (job,) = await client.jobs.page()
        assert (job.state, job.cancel_requested) == ("running", False)


async def test_an_unreachable_service_raises(kind):
    async with client_at("http://127.0.0.1:9", kind) as client:
        with pytest.raises(ConnectionFailed, match=r"Nothing answers at http://127\.0\.0\.1:9\."):
            await client.about()
        with pytest.raises(ConnectionFailed):
            await client.first("events.stream", 1)


async def test_a_response_that_is_no_event_stream_raises_at_once(url, kind):
    page = httpx.Response(200, html="<p>Welcome</p>")
    async with client_at(url, kind, first_requests("/events", page)) as client:
        with pytest.raises(UnexpectedAnswer, match="text/html"):
            await client.first("events.stream", 1)


async def test_following_an_unknown_job_raises(url, kind):
    async with client_at(url, kind) as client:
        with pytest.raises(NotFound):
            await client.first("jobs.stream", job="0198a3c0-0000-7000-8000-000000000000")


async def test_an_exception_in_on_progress_cancels_the_jobs(url, kind, bench):
    def on_progress(progress: Progress) -> None:
        if progress.step == 2:
            raise Abandoned
        steps_into(reported)(progress)

    reported: list[Progress] = []
    bench.workers.gate = InStep(bench, reported, several=True)
    async with client_at(url, kind) as client:
        with pytest.raises(Abandoned):
            await client.images.generate_many("pear", n=2, steps=50, on_progress=on_progress)
        assert all(job.cancel_requested for job in await client.jobs.page())
        assert len(await client.images.page()) == 0


async def test_cancelling_the_task_cancels_the_jobs(url, bench):
    bench.workers.gate.clear()
    async with client_at(url, "AsyncClient") as client:
        generating = asyncio.create_task(client.images.generate_many("pear", n=2))
        await until(lambda: bench.workers.calls["generate"] == 2)
        generating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await generating
        assert {job.state for job in await client.jobs.page()} == {"cancelled"}


async def test_a_task_that_is_cancelled_twice_cancels_the_jobs_before_the_client_closes(url, bench):
    bench.workers.gate.clear()
    cancellations: list[str] = []

    def fault(request: httpx.Request) -> None:
        if request.url.path.endswith("/cancel"):
            cancellations.append(request.url.path)

    async with client_at(url, "AsyncClient", fault) as client:
        generating = asyncio.create_task(client.images.generate_many("pear", n=2))
        await until(lambda: bench.workers.calls["generate"] == 2)
        generating.cancel()
        await until(lambda: cancellations)
        generating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await generating
    async with client_at(url, "AsyncClient") as client:
        assert [job.state for job in await client.jobs.page()] == ["cancelled"] * 2


async def test_abandoning_the_submission_cancels_the_jobs(url, kind, bench):
    """The response with the job ids is never received."""
    bench.workers.gate.clear()
    faults: list = [Abandoned()]

    def fault(request: httpx.Request):
        return faults.pop() if request.url.path == "/v1/images" and request.method == "POST" and faults else None

    async with client_at(url, kind, fault) as client:
        with pytest.raises(Abandoned):
            await client.images.generate_many("pear", n=2)
        assert [job.state for job in await client.jobs.page()] == ["cancelled"] * 2


async def test_a_model_that_stays_unavailable_raises(url, kind, bench):
    rejections = [httpx.Response(503, json={"detail": "Not ready.", "code": "model_not_ready"}) for _ in range(9)]
    async with client_at(url, kind, first_requests("/v1/images", *rejections)) as client:
        with pytest.raises(ServiceUnavailable, match="Not ready"):
            await client.images.generate("pear")
