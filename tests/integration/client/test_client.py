"""Both Python clients against the real HTTP application: every method."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import math
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from pycocotools import mask as coco

from ai_pipeline_client import Image, InvalidRequest, JobCancelled, NotFound, Progress, ServiceUnavailable, Unauthorized
from ai_pipeline_client import async_client as asyncio_client
from ai_pipeline_client import client as blocking_client
from graphs.generation import job_worker as job_runner
from graphs.http.app import build_http_app
from graphs.http.auth import AccessControl
from pipeline.jobs import MAX_ATTEMPTS
from testing.harness import Bench
from testing.waiting import until
from tests.integration.clients import InStep, client_at, served, steps_into

pytestmark = pytest.mark.anyio

UNKNOWN_ID = "0198a3c0-0000-7000-8000-000000000000"


@pytest.fixture(params=["Client", "AsyncClient"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def url(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setattr(job_runner, "POLL_S", 0.05)
    async with served(build_http_app(bench.services)) as url:
        yield url


@pytest.fixture
async def client(url: str, kind: str) -> AsyncIterator[Any]:
    async with client_at(url, kind) as client:
        yield client


async def pear(client: Any, **parameters: Any) -> Image:
    (image,) = await client.generate("pear", steps=2, **{"seed": 3} | parameters)
    return image


def opened(png: bytes) -> Picture.Image:
    return Picture.open(io.BytesIO(png))


async def test_about_returns_the_status_and_the_limits(client):
    about = await client.about()
    assert (about.status, about.device, about.profile) == ("online", "cpu", "mini")
    assert about.limits.min_side <= about.defaults.width <= about.limits.max_side


async def test_several_images_are_returned_in_seed_order_with_a_preview_per_step(client, bench):
    reported: list[Progress] = []
    bench.workers.gate = InStep(bench, reported, several=True)
    images = await client.generate("pear", n=3, seed=7, steps=4, on_progress=steps_into(reported))

    assert [image.request.seed for image in images] == [7, 8, 9]
    assert {image.request.prompt for image in images} == {"pear"}
    assert len({image.image_id for image in images}) == 3
    for number in range(3):
        steps = [progress for progress in reported if progress.number == number]
        assert [progress.step for progress in steps] == [1, 2, 3, 4]
        assert {progress.num_steps for progress in steps} == {4}
        assert len({progress.job_id for progress in steps}) == 1
        assert all(opened(progress.preview).size == (64, 64) for progress in steps)


async def test_the_steps_of_a_single_image_are_reported(client, bench):
    reported: list[Progress] = []
    bench.workers.gate = InStep(bench, reported)
    all_progress: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        all_progress.append(progress)
        steps_into(reported)(progress)

    (image,) = await client.generate("pear", steps=3, on_progress=on_progress)
    assert [(progress.number, progress.step) for progress in all_progress] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    (job,) = await client.jobs()
    assert {(progress.job_id, progress.num_steps) for progress in all_progress} == {(job.job_id, 3)}
    assert image == await client.image(image.image_id)


async def test_on_progress_may_be_a_coroutine_function(url, bench):
    reported: list[int] = []

    async def on_progress(progress: Progress) -> None:
        await asyncio.sleep(0)
        if progress.step:
            reported.append(progress.step)

    async with client_at(url, "AsyncClient") as client:
        bench.workers.gate = InStep(bench, reported)
        await client.generate("pear", steps=2, on_progress=on_progress)
    assert reported == [1, 2]


async def test_analysis_probe_and_embeddings(client):
    image_id = (await pear(client)).image_id
    analysis = await client.analysis(image_id)
    assert sum(label.confidence for label in analysis.labels) == pytest.approx(1)
    assert [region.region_id for region in analysis.regions] == [0, 1]
    own = await client.analysis(image_id, labels=["cat", "dog"], templates=["a {label}", "one {label}"])
    assert {label.label for label in own.labels} == {"cat", "dog"}

    concepts = await client.probe(image_id, ["red", "metal"])
    assert [match.concept for match in concepts.matches] == ["red", "metal"]
    assert sum(match.share for match in concepts.matches) + concepts.none_of_these == pytest.approx(1)
    assert [region.label for region in concepts.regions] == ["apple", "plate"]

    vectors = await client.embed(texts=["red"], image_ids=[image_id])
    assert len(vectors) == 2
    assert all(len(vector) == 8 for vector in vectors)
    assert math.hypot(*vectors[1]) == pytest.approx(1)


async def test_segments_in_each_format(client):
    image_id = (await pear(client)).image_id
    polygons = await client.segments(image_id)
    run_lengths = await client.segments(image_id, format="rle")
    masks = await client.segments(image_id, format="png")
    assert [segment.region_id for segment in polygons] == [0, 1]
    assert polygons[0].labels[0].label == "apple"
    for polygon, rle, mask in zip(polygons, run_lengths, masks, strict=True):
        assert (polygon.rle, polygon.mask, rle.polygon, mask.polygon) == (None,) * 4
        assert all(len(contour) >= 3 for contour in polygon.polygon)
        decoded = coco.decode(dataclasses.asdict(rle.rle))
        assert decoded.sum() == polygon.area
        assert np.array_equal(decoded > 0, np.asarray(opened(mask.mask).convert("L")) > 0)
    assert len((await client.coco(image_id))["annotations"]) == 2
    assert (await client.region(image_id, 1)).rle == run_lengths[1].rle

    (disc,) = await client.cut_out(image_id, points=[(19, 19), (1, 1, False)])
    assert disc.area == polygons[0].area
    (found,) = await client.find(image_id, "apple")
    assert (found.region_id, found.rle) == (0, None)
    assert 0 < found.score <= 1


async def test_content_overlay_and_spotlights(client):
    image = await pear(client)
    visualization = await client.visualize(image.image_id)
    assert opened(await client.content(image.image_id)).size == (image.width, image.height)
    small = opened(await client.content(image.image_id, format="webp", size=32, quality=50))
    assert (small.format, small.size) == ("WEBP", (32, 32))
    assert await client.overlay(image.image_id) == visualization.overlay
    assert [spotlight.label for spotlight in visualization.spotlights] == ["apple", "plate"]
    for spotlight in visualization.spotlights:
        assert await client.spotlight(image.image_id, spotlight.region_id) == spotlight.png


async def test_variations_and_edits(client):
    image = await pear(client)
    first, second = await client.variations(image.image_id, n=2, strength=0.5, steps=2, seed=5)
    assert (first.request.source.image_id, first.request.source.strength) == (image.image_id, 0.5)
    assert (first.request.seed, second.request.seed) == (5, 6)

    whole = io.BytesIO()
    Picture.new("L", (image.width, image.height), 255).save(whole, "PNG")
    for area in ({"mask": whole.getvalue()}, {"region": 0}, {"concept": "apple"}, {"points": [(1, 1)]}, {}):
        (edited,) = await client.edits(image.image_id, "a green apple", steps=2, **area)
        assert edited.request.prompt == "a green apple"
        assert (edited.request.source.mask is None) == (not area)

    submitted = [
        await client.create_variations(image.image_id, steps=2, seed=6),
        await client.create_edits(image.image_id, "a green apple", region=0, steps=2, seed=7),
    ]
    images = await client.wait([job.job_id for accepted in submitted for job in accepted.jobs])
    assert [(made.request.seed, made.request.source.image_id) for made in images] == [
        (6, image.image_id),
        (7, image.image_id),
    ]


async def test_events_of_other_jobs_are_ignored(client, bench):
    bench.workers.gate.clear()
    generating = asyncio.create_task(client.generate("pear", n=2, steps=2))
    await until(lambda: bench.workers.calls["generate"] == 2)
    (other,) = (await client.create("cup", steps=2)).jobs
    bench.workers.gate.set()
    assert [image.request.prompt for image in await generating] == ["pear", "pear"]
    (image,) = await client.wait([other.job_id])
    assert image.request.prompt == "cup"


async def test_upload_list_and_delete(client, monkeypatch):
    for module in (asyncio_client, blocking_client):
        monkeypatch.setattr(module, "FULL_PAGE", 2)
    generated = [await pear(client, seed=seed) for seed in range(4)]
    file = io.BytesIO()
    Picture.new("RGB", (90, 60), "orange").save(file, "JPEG")
    uploaded = await client.upload(file.getvalue())
    assert (uploaded.width, uploaded.height) == (90, 60)
    assert (await client.image(uploaded.image_id)).request is None

    newest_first = [uploaded.image_id, *(image.image_id for image in reversed(generated))]
    assert [image.image_id for image in await client.first("every_image")] == newest_first
    assert [image.image_id for image in await client.first("every_image", prompt="PEAR")] == newest_first[1:]
    assert len(await client.first("every_job")) == 4
    page = await client.images(limit=3)
    assert [image.image_id for image in page] == newest_first[:3]
    assert [image.image_id for image in await client.images(before=page.next)] == newest_first[3:]
    assert list(await client.images(until=generated[0].created_at)) == []
    assert len(await client.images(since=generated[0].created_at)) == 5

    await client.delete(uploaded.image_id)
    with pytest.raises(NotFound):
        await client.image(uploaded.image_id)


async def test_sessions_are_separate(url, kind):
    async with client_at(url, kind, session="ann") as client:
        other = client.client.in_session("bob") if kind == "Client" else client.in_session("bob")
        await pear(client)
        assert len(await client.images(session="ann")) == 1
        assert len(await client.images(session="bob")) == 0
        upload = io.BytesIO()
        Picture.new("RGB", (32, 32)).save(upload, "PNG")
        await (
            asyncio.to_thread(other.upload, upload.getvalue()) if kind == "Client" else other.upload(upload.getvalue())
        )
        assert len(await client.images(session="bob")) == 1


async def test_jobs_are_submitted_listed_cancelled_and_retried(client, bench):
    bench.workers.gate.clear()
    accepted = await client.create("pear", n=2, steps=2, seed=1)
    first, second = accepted.jobs
    assert (await client.job(first.job_id)).request["prompt"] == "pear"
    assert {job.job_id for job in await client.jobs(states=["queued", "running"])} == {first.job_id, second.job_id}
    cancelled = await client.cancel(second.job_id)
    assert cancelled.has_ended or cancelled.cancel_requested  # if it was running
    with pytest.raises(JobCancelled, match=second.job_id):
        await client.wait([second.job_id])

    bench.workers.gate.set()
    (image,) = await client.wait([first.job_id])
    assert image.request.seed == 1
    await client.retry(second.job_id)
    assert [image.request.seed for image in await client.wait([first.job_id, second.job_id])] == [1, 2]
    assert await client.wait([]) == ()
    assert [job.state for job in await client.first("every_job")] == ["succeeded"] * 2


async def test_events_are_received_in_order_from_any_sequence_number(client):
    image = await pear(client)
    (job,) = await client.jobs()
    events = await client.first("follow", job_id=job.job_id)
    types = [event.type for event in events]
    assert types == ["job.submitted", "job.started", "image.created", "job.succeeded", "generation.finished"]
    assert events[2].image_id == image.image_id
    later = await client.first("follow", job_id=job.job_id, after=events[2].sequence)
    assert [event.type for event in later] == types[3:]

    assert [event.type for event in await client.first("events", 4, after=0)] == types[:4]
    (created,) = await client.first("events", 1, after=0, types=["image.created"])
    assert created.sequence == events[2].sequence
    assert await client.first("events", after=events[3].sequence, follow=False) == []
    logged = await client.first("events", follow=False)
    assert [event.type for event in logged] == types[:4]


async def test_a_failure_of_one_image_is_raised_and_cancels_the_others(client, bench):
    bench.workers.deaths["generate"] = 2 * MAX_ATTEMPTS
    with pytest.raises(ServiceUnavailable, match="was lost again and again") as failed:
        await client.generate("pear", n=2, steps=2)
    assert failed.value.code == "worker_lost"
    assert failed.value.request_id
    await until(lambda: bench.services.feed.num_streams == 0)
    assert all(job.has_ended or job.cancel_requested for job in await client.jobs())


async def test_errors_say_what_to_send(client):
    with pytest.raises(InvalidRequest, match="send a few words") as rejected:
        await client.generate("")
    assert (rejected.value.status, rejected.value.code) == (422, "invalid_request")
    assert rejected.value.errors[0]["field"] == "prompt"
    assert rejected.value.request_id
    with pytest.raises(NotFound) as missing:
        await client.job(UNKNOWN_ID)
    assert (missing.value.title, missing.value.code) == ("Job not found", "job_not_found")
    with pytest.raises(NotFound, match=UNKNOWN_ID) as missing:
        await client.embed(image_ids=[UNKNOWN_ID])  # responds like OpenAI
    assert (missing.value.title, missing.value.code) == ("Image not found", "image_not_found")
    assert missing.value.request_id


async def test_a_service_with_access_control_requires_an_api_key(bench, kind):
    _, token = bench.store.keys.create("ann")
    async with served(build_http_app(bench.services, AccessControl(bench.store.keys))) as url:
        async with client_at(url, kind) as client:
            with pytest.raises(Unauthorized):
                await client.images()
        async with client_at(url, kind, api_key=token) as client:
            assert len(await client.images()) == 0
