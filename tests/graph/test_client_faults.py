"""Both clients over a network that fails, and callers who leave: nothing is done twice, lost, or left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

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
from graphs.generation import job_worker as job_runner
from graphs.http.app import build_http_app
from testing.harness import Bench
from testing.waiting import until
from tests.graph.clients import Fault, InStep, client_at, served, steps_into

pytestmark = pytest.mark.anyio

NO_BYTES = 0


class Left(Exception):
    """Whoever waited doesn't any more."""


@pytest.fixture(params=["Client", "AsyncClient"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def url(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setattr(job_runner, "POLL_S", 0.05)
    monkeypatch.setattr(subscription, "RESUME_PAUSE_S", 0.0)
    async with served(build_http_app(bench.services)) as url:
        yield url


def first_ones(path: str, *fates: Exception | httpx.Response | int) -> Fault:
    """Let the first requests for what ends like this meet their fates."""
    waiting = iter(fates)
    return lambda request: next(waiting, None) if request.url.path.endswith(path) else None


async def test_what_fails_in_passing_is_tried_again(url, kind):
    fault = first_ones(
        "/v1/images",
        httpx.ConnectError("nobody there"),
        httpx.Response(503, headers={"Retry-After": "0"}, json={"detail": "Come back.", "code": "overloaded"}),
        httpx.Response(500, text="Internal Server Error"),  # as the proxy answers when a replica dies
        NO_BYTES,
    )
    async with client_at(url, kind, fault) as client:
        assert len(await client.images()) == 0


async def test_a_request_that_is_repeated_makes_one_image(url, kind, bench):
    async with client_at(url, kind, first_ones("/v1/images", NO_BYTES, NO_BYTES)) as client:
        (image,) = await client.generate("pear", steps=2)
        assert [kept.image_id for kept in await client.images()] == [image.image_id]
        assert len(await client.jobs()) == bench.workers.calls["generate"] == 1


async def test_a_picture_that_is_sent_twice_is_kept_once(url, kind):
    async with client_at(url, kind, first_ones("/upload", NO_BYTES)) as client:
        (image,) = await client.generate("pear", steps=2)
        uploaded = await client.upload(await client.content(image.image_id))
        assert [kept.image_id for kept in await client.images()] == [uploaded.image_id, image.image_id]


async def test_what_must_not_be_done_twice_is_not_repeated(url, kind):
    async with client_at(url, kind, first_ones("/retry", NO_BYTES, NO_BYTES)) as client:
        (job,) = (await client.create("pear", steps=50)).jobs
        await client.cancel(job.job_id)
        with pytest.raises(ConnectionFailed, match="broke off") as broken:
            await client.retry(job.job_id)
        assert isinstance(broken.value.__cause__, httpx.ReadError)
        assert not (await client.job(job.job_id)).cancel_requested  # it was heard


async def test_patience_ends(url, kind):
    refusals = [httpx.Response(429, json={"detail": "Too much.", "code": "overloaded"}) for _ in range(5)]
    async with client_at(url, kind, first_ones("/v1/images", *refusals)) as client:
        with pytest.raises(Overloaded, match="Too much"):
            await client.images()
        assert len(await client.images()) == 0


async def test_a_stream_that_breaks_off_is_resumed_where_it_was(url, kind, bench):
    resumed: list[str] = []
    fates: list = [httpx.Response(503, text="the proxy knows nobody"), 600, 10, None]

    def fault(request: httpx.Request):
        if not request.url.path.endswith("/events"):
            return None
        resumed.append(request.headers["Last-Event-ID"])
        return fates.pop(0) if fates else None

    (made,) = await _generated(url, kind, bench, fault)
    sequences = [int(last_id) for last_id in resumed]
    assert sequences[:2] == [0, 0]
    assert sequences == sorted(sequences)
    assert sequences[-1] > 0
    assert made.request.prompt == "pear"


async def _generated(url: str, kind: str, bench: Bench, fault: Fault):
    bench.workers.gate.clear()
    async with client_at(url, kind, fault) as client:
        making = asyncio.create_task(client.generate("pear", steps=6, on_progress=lambda _: None))
        await until(lambda: bench.services.feed.num_streams == 1)
        bench.workers.gate.set()
        return await making


async def test_events_are_told_once_each_over_a_line_that_keeps_breaking(url, kind):
    async with client_at(url, kind, first_ones("/events", *range(100, 900, 200))) as client:
        for seed in range(3):
            await client.create("pear", steps=2, seed=seed)
        events = await client.first("events", 3 * 4, after=0)
        sequences = [event.sequence for event in events if event.sequence]
        assert sequences == sorted(set(sequences))
        assert [event.type for event in events].count("job.succeeded") == 3


async def test_a_stream_that_never_comes_back_is_no_success(url, kind, bench, monkeypatch):
    monkeypatch.setattr(subscription, "RESUME_WITHIN_S", 0.0)
    bench.workers.gate.clear()
    fates: list = [10]

    def fault(request: httpx.Request):
        if not request.url.path.endswith("/events"):
            return None
        return fates.pop() if fates else httpx.ConnectError("nobody there")

    async with client_at(url, kind, fault) as client:
        with pytest.raises(ConnectionFailed, match="goes on: /v1/jobs/") as broken:
            await client.generate("pear")
        assert broken.value.title == "Broken off"
        (job,) = await client.jobs()
        assert (job.state, job.cancel_requested) == ("running", False)


async def test_nothing_that_answers_is_said(kind):
    async with client_at("http://127.0.0.1:9", kind) as client:
        with pytest.raises(ConnectionFailed, match=r"Nothing answers at http://127\.0\.0\.1:9\."):
            await client.about()
        with pytest.raises(ConnectionFailed):
            await client.first("events", 1)


async def test_what_is_no_stream_is_said_at_once(url, kind):
    page = httpx.Response(200, html="<p>Welcome</p>")
    async with client_at(url, kind, first_ones("/events", page)) as client:
        with pytest.raises(UnexpectedAnswer, match="text/html"):
            await client.first("events", 1)


async def test_a_job_that_is_not_there_is_not_waited_for(url, kind):
    async with client_at(url, kind) as client:
        with pytest.raises(NotFound):
            await client.first("follow", job_id="0198a3c0-0000-7000-8000-000000000000")


async def test_whoever_leaves_by_an_exception_cancels_the_jobs(url, kind, bench):
    def leave(progress: Progress) -> None:
        if progress.step == 2:
            raise Left
        steps_into(told)(progress)

    told: list[Progress] = []
    bench.workers.gate = InStep(bench, told, several=True)
    async with client_at(url, kind) as client:
        with pytest.raises(Left):
            await client.generate("pear", n=2, steps=50, on_progress=leave)
        assert all(job.cancel_requested for job in await client.jobs())
        assert len(await client.images()) == 0


async def test_a_task_that_is_cancelled_cancels_the_jobs(url, bench):
    bench.workers.gate.clear()
    async with client_at(url, "AsyncClient") as client:
        making = asyncio.create_task(client.generate("pear", n=2))
        await until(lambda: bench.workers.calls["generate"] == 2)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert {job.state for job in await client.jobs()} == {"cancelled"}


async def test_whoever_leaves_while_submitting_leaves_nothing_behind(url, kind, bench):
    """The answer that names the jobs is never heard."""
    bench.workers.gate.clear()
    fates: list = [Left()]

    def fault(request: httpx.Request):
        return fates.pop() if request.url.path == "/v1/images" and request.method == "POST" and fates else None

    async with client_at(url, kind, fault) as client:
        with pytest.raises(Left):
            await client.generate("pear", n=2)
        assert [job.state for job in await client.jobs()] == ["cancelled"] * 2


async def test_a_model_that_is_not_there_is_said_in_the_end(url, kind, bench):
    refused = [httpx.Response(503, json={"detail": "Not ready.", "code": "model_not_ready"}) for _ in range(9)]
    async with client_at(url, kind, first_ones("/v1/images", *refused)) as client:
        with pytest.raises(ServiceUnavailable, match="Not ready"):
            await client.generate("pear")
