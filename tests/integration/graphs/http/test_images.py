"""Image resources over HTTP with fakes."""

from __future__ import annotations

import asyncio
import io
from collections import Counter

import httpx
import pytest
from httpx_sse import aconnect_sse
from PIL import Image

from pipeline.events import ImageCreated, ImageDeleted
from pipeline.settings import AdmissionSettings, OwnerLimits
from testing.harness import Bench, make_bench, working
from tests.integration.clients import client_of, is_problem

pytestmark = pytest.mark.anyio

NO_IMAGE = "0197a0b2-0000-7000-8000-000000000000"  # the id of no image


def a_png(side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


async def generated(client: httpx.AsyncClient, seed: int) -> str:
    return (await client.post("/generate", json={"prompt": "pear", "seed": seed, "steps": 2})).json()["image_id"]


async def test_an_upload_repeated_with_one_key_creates_one_image(bench: Bench):
    client = client_of(bench, AdmissionSettings())
    key = {"Idempotency-Key": "photo-1", "Content-Type": "image/png"}
    png, other = a_png(64), a_png(65)
    responses = await asyncio.gather(*(client.post("/v1/images/upload", content=png, headers=key) for _ in range(5)))
    assert {response.status_code for response in responses} == {201}
    assert len({response.json()["image_id"] for response in responses}) == 1
    assert len((await client.get("/v1/images")).json()["images"]) == 1
    assert len(bench.of(ImageCreated)) == 1
    form = {"file": ("photo.png", png, "image/png")}  # the same image, in a multipart form
    again = await client.post("/v1/images/upload", files=form, headers={"Idempotency-Key": "photo-1"})
    assert again.json()["image_id"] == responses[0].json()["image_id"]
    assert is_problem(await client.post("/v1/images/upload", content=other, headers=key), 422, "idempotency_mismatch")


async def test_the_history_is_paginated_and_has_the_request_of_each_image(bench: Bench):
    async with client_of(bench) as client:
        ids = [await generated(client, seed) for seed in range(5)]

        first = (await client.get("/v1/images", params={"limit": 3})).json()
        rest = (await client.get("/v1/images", params={"limit": 3, "before": first["next"]})).json()

        whole = (await client.get("/v1/images", params={"limit": 5})).json()

    assert [image["image_id"] for image in first["images"] + rest["images"]] == ids[::-1]
    assert rest["next"] is whole["next"] is None
    assert first["images"][0]["request"]["prompt"] == "pear"
    assert first["images"][0]["request"]["seed"] == 4


async def test_an_image_s_content_never_changes(bench: Bench):
    async with client_of(bench) as client:
        image = (await client.get(f"/v1/images/{await generated(client, 1)}")).json()
        content = await client.get(image["content"])
        again = await client.get(image["content"], headers={"If-None-Match": content.headers["etag"]})

    assert content.headers["content-type"] == "image/png"
    assert "immutable" in content.headers["cache-control"]
    assert Image.open(io.BytesIO(content.content)).size == (image["width"], image["height"])
    assert (again.status_code, again.content) == (304, b"")


async def test_a_deleted_image_is_gone_and_the_session_has_none(bench: Bench):
    async with client_of(bench) as client:
        image_id = await generated(client, 1)
        await client.post("/segment")

        assert (await client.delete(f"/v1/images/{image_id}")).status_code == 204

        for path in ("", "/content"):
            assert is_problem(await client.get(f"/v1/images/{image_id}{path}"), 404, "image_not_found")
        assert (await client.delete(f"/v1/images/{image_id}")).status_code == 204
        assert is_problem(await client.post("/segment"), 400, "no_image_yet")
        assert (await client.get("/v1/images")).json()["images"] == []
    assert [event.image_id for event in bench.of(ImageDeleted)] == [image_id]


@pytest.mark.parametrize("encoding", ["body", "form"])
async def test_an_upload_becomes_the_session_s_last_image(bench: Bench, encoding: str):
    async with client_of(bench) as client:
        if encoding == "body":
            response = await client.post("/v1/images/upload", content=a_png(), headers={"Content-Type": "image/png"})
        else:
            response = await client.post("/v1/images/upload", files={"file": ("mine.png", a_png(), "image/png")})
        uploaded = response.json()
        segments = (await client.post("/segment")).json()
        image = (await client.get(response.headers["location"])).json()

    assert response.status_code == 201
    assert segments["image_id"] == uploaded["image_id"] == image["image_id"]
    assert (image["width"], image["height"], image["request"]) == (64, 64, None)


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        pytest.param(b"not a picture", "image/png", 422, "invalid_upload", id="no picture"),
        pytest.param(a_png()[:60], "image/png", 422, "invalid_upload", id="truncated"),
        pytest.param(a_png(8), "image/png", 422, "invalid_upload", id="too small"),
        pytest.param(a_png(), "text/plain", 415, "unsupported_media_type", id="wrong type"),
        pytest.param(a_png(), "", 415, "unsupported_media_type", id="no type"),
        pytest.param(b"x" * 200_000, "image/png", 413, "body_too_large", id="too large"),
        pytest.param(b"garbage", "multipart/form-data; boundary=x", 422, "invalid_upload", id="broken form"),
        pytest.param(b"--x--\r\n", "multipart/form-data; boundary=x", 422, "invalid_upload", id="empty form"),
    ],
)
async def test_bad_uploads(bench: Bench, content: bytes, kind: str, status: int, code: str):
    async with client_of(bench, AdmissionSettings(max_upload_bytes=100_000)) as client:
        response = await client.post(
            "/v1/images/upload", content=content, headers={"Content-Type": kind} if kind else {}
        )

    assert is_problem(response, status, code)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/v1/images/{NO_IMAGE}", 404, "image_not_found"),
        (f"/v1/images/{NO_IMAGE}/content", 404, "image_not_found"),
        ("/v1/images/nonsense", 404, "image_not_found"),
        ("/v1/images?limit=0", 422, "invalid_request"),
        ("/v1/images?before=x", 422, "invalid_request"),
    ],
)
async def test_bad_requests(bench: Bench, path: str, status: int, code: str):
    async with client_of(bench) as client:
        assert is_problem(await client.get(path), status, code)


def value_of(metrics: str, name: str) -> float:
    (line,) = [line for line in metrics.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


async def test_metrics_report_what_is_stored(bench: Bench):
    async with client_of(bench) as client:
        await generated(client, 1)
        metrics = (await client.get("/metrics")).text

    assert "pipeline_store_images 1.0" in metrics
    assert "pipeline_store_events 4.0" in metrics  # a job submitted, started, succeeded, and its image
    assert "pipeline_store_newest_image_age_seconds" in metrics
    assert 'pipeline_store_jobs{state="succeeded"} 1.0' in metrics
    assert 'pipeline_store_deliveries{state="pending"} 0.0' in metrics
    assert "pipeline_store_events_logged_total 4.0" in metrics
    assert 0 < value_of(metrics, "pipeline_disk_free_bytes") <= value_of(metrics, "pipeline_disk_size_bytes")


async def test_results_persist_over_a_restart(bench: Bench):
    """A new service on the same store, with an empty cache, computes nothing again."""
    from testing.harness import make_bench

    image = await bench.image()
    before = await bench.analyze(image, "r")

    restarted = make_bench(bench.settings.data_path)
    after = await restarted.analyze(image, "r")

    assert after.segmentation.rles == before.segmentation.rles
    assert after.drawings == before.drawings
    assert not restarted.workers.calls


async def created(client: httpx.AsyncClient, **body: object) -> list[dict]:
    response = await client.post("/v1/images", json={"prompt": "pear", "steps": 2} | body)
    assert response.status_code == 201, response.text
    return response.json()["images"]


async def test_several_images_are_generated_concurrently_with_consecutive_seeds(bench: Bench):
    async with client_of(bench) as client:
        images = await created(client, n=3, seed=2**32 - 2)
        (alone,) = await created(client, seed=0)

        assert [image["request"]["seed"] for image in images] == [2**32 - 2, 2**32 - 1, 0]
        assert images[2]["digest"] == alone["digest"]
        assert len({image["image_id"] for image in images}) == 3
        assert len(bench.services.generation.admission) == 0


async def test_several_images_of_one_request_are_admitted_as_one(tmp_path):
    bench = make_bench(tmp_path, AdmissionSettings(max_generations=1))
    async with working(bench), client_of(bench, AdmissionSettings(max_generations=1)) as client:
        assert len(await created(client, n=3)) == 3


async def test_one_key_generates_several_images_once(bench: Bench):
    body, key = {"prompt": "pear", "n": 2, "seed": 4, "steps": 1}, {"Idempotency-Key": "two-pears"}
    async with client_of(bench) as client:
        first = await client.post("/v1/images", json=body, headers=key)
        again = await client.post("/v1/images", json=body, headers=key)
        other = await client.post("/v1/images", json=body | {"n": 3}, headers=key)

    assert [i["image_id"] for i in first.json()["images"]] == [i["image_id"] for i in again.json()["images"]]
    assert bench.workers.calls["generate"] == 2
    assert is_problem(other, 422, "idempotency_mismatch")


async def test_images_are_streamed_as_events_or_fetched_later(bench: Bench):
    body = {"prompt": "pear", "n": 2, "steps": 2}
    async with client_of(bench) as client:
        async with aconnect_sse(
            client, "POST", "/v1/images", json=body, headers={"Accept": "text/event-stream"}
        ) as source:
            events = [event async for event in source.aiter_sse()]
        later = await client.post("/v1/images", json=body, headers={"Prefer": "respond-async"})

    counts = Counter(event.event for event in events)
    assert (counts["job.succeeded"], counts["generation.stepped"], counts["generation.finished"]) == (2, 4, 1)
    assert len(events[-1].json()["images"]) == 2
    assert (later.status_code, len(later.json()["jobs"])) == (202, 2)


async def test_a_request_over_the_job_limit_leaves_no_jobs_behind(tmp_path):
    bench = make_bench(tmp_path, limits=OwnerLimits(unfinished_jobs=2))
    async with client_of(bench) as client:  # without a job worker
        bench.workers.gate.clear()
        rejected = await client.post("/v1/images", json={"prompt": "x", "n": 3}, headers={"Prefer": "respond-async"})
        jobs = (await client.get("/v1/jobs")).json()["jobs"]

    assert is_problem(rejected, 429, "job_limit_reached")
    assert not [job for job in jobs if job["state"] == "running" and not job["cancel_requested"]]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"prompt": "x", "n": 0}, "n"),
        ({"prompt": "x", "n": 11}, "n"),
        ({"prompt": "x", "mood": "happy"}, "mood"),
        ({"n": 1}, "prompt"),
    ],
)
async def test_an_invalid_request_names_the_field(bench: Bench, body: dict, word: str):
    async with client_of(bench) as client:
        response = await client.post("/v1/images", json=body)
    assert is_problem(response, 422, "invalid_request")
    assert word in response.json()["detail"]


async def test_images_are_found_by_session_label_prompt_and_time(bench: Bench):
    async with client_of(bench) as client:

        async def found(**wanted: str) -> list[int]:
            response = await client.get("/v1/images", params=wanted)
            assert response.status_code == 200, response.text
            return [image["request"]["seed"] for image in response.json()["images"]]

        (first,) = await created(client, seed=1, prompt="a 50% red_apple")
        client.headers["X-Session-ID"] = "desk"
        (second,) = await created(client, seed=2, prompt="Green pear")
        await bench.describe(await bench.services.images.find(second["image_id"], owner="public", session=""), "r")

        assert await found() == [2, 1]
        assert await found(session="desk") == [2]
        assert await found(prompt="PEAR") == [2]
        assert await found(prompt="50%") == [1]
        assert await found(prompt="5%") == []  # no wildcard
        assert await found(label="apple") == [2]
        assert await found(label="whale") == []
        assert await found(since=second["created_at"]) == [2]
        assert await found(until=second["created_at"]) == [1]
        assert await found(until="2020-01-01") == []
        assert await found(session="desk", prompt="apple") == []
        assert is_problem(await client.get("/v1/images", params={"label": "nul\0"}), 422, "invalid_request")
        assert is_problem(
            await client.get("/v1/images", params={"since": "0001-01-01T00:00+14:00"}), 422, "invalid_request"
        )
        await client.delete(f"/v1/images/{second['image_id']}")
        assert await found(label="apple") == []
        (again,) = await created(client, seed=2, prompt="Green pear")  # its description is cached
        await bench.describe(await bench.services.images.find(again["image_id"], owner="public", session=""), "r")
        assert await found(label="apple") == [2]
        assert first["image_id"]


@pytest.mark.parametrize(
    ("range_header", "status", "start", "end"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=5-", 206, 5, None),
        ("bytes=-7", 206, -7, None),
        ("bytes=10-99999999", 206, 10, None),
        ("bytes=99999999-", 416, 0, 0),
        ("bytes=9-5", 200, 0, None),
        ("bytes=0-" + "9" * 5000, 200, 0, None),
        ("bytes=-0", 200, 0, None),  # RFC 9110: a server may ignore it
        ("bytes=-", 200, 0, None),
        ("bytes=0-1,4-5", 200, 0, None),
        ("lines=1-2", 200, 0, None),
    ],
)
async def test_range_requests_return_a_part_of_the_content(
    bench: Bench, range_header: str, status: int, start: int, end: int | None
):
    async with client_of(bench) as client:
        url = f"/v1/images/{await generated(client, 1)}/content"
        whole = (await client.get(url)).content
        part = await client.get(url, headers={"Range": range_header})

    assert (part.status_code, part.content) == (status, whole[start:end])
    if status == 206:
        first = start % len(whole)
        assert part.headers["Content-Range"] == f"bytes {first}-{first + len(part.content) - 1}/{len(whole)}"


async def test_if_range_of_another_version_returns_the_whole_content(bench: Bench):
    async with client_of(bench) as client:
        url = f"/v1/images/{await generated(client, 1)}/content"
        whole = await client.get(url)
        same = await client.get(url, headers={"Range": "bytes=0-3", "If-Range": whole.headers["ETag"]})
        other = await client.get(url, headers={"Range": "bytes=0-3", "If-Range": '"older"'})

    assert (same.status_code, other.status_code, other.content) == (206, 200, whole.content)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_the_content_is_returned_in_other_formats_and_sizes(bench: Bench, kind: str):
    async with client_of(bench) as client:
        (image,) = await created(client, width=128, height=64)
        response = await client.get(image["content"], params={"format": kind, "size": 32})
        again = await client.get(image["content"], params={"format": kind, "size": 32})
        larger = await client.get(image["content"], params={"format": kind, "size": 999})

    assert (response.headers["Content-Type"], decoded(response.content).size) == (f"image/{kind}", (32, 16))
    assert decoded(response.content).format == kind.upper()
    assert again.content == response.content
    assert decoded(larger.content).size == (128, 64)
    assert response.headers["ETag"] != larger.headers["ETag"]
    assert bench.workers.calls["encode"] == 2 + (kind != "png")  # each once; the original PNG was stored


async def test_a_png_embeds_its_request_which_an_upload_restores(bench: Bench):
    async with client_of(bench) as client:
        (image,) = await created(client, prompt="röd äpple \N{RED APPLE}", negative_prompt="blue", seed=9)
        png = (await client.get(image["content"])).content
        back = await client.post("/v1/images/upload", content=png, headers={"Content-Type": "image/png"})
        uploaded = (await client.get(back.headers["Location"])).json()
        kept = (await client.get(uploaded["content"])).content

    assert "Seed: 9" in decoded(png).info["parameters"]
    assert uploaded["request"] == image["request"]
    assert uploaded["digest"] == image["digest"]
    assert "Seed: 9" in decoded(kept).info["parameters"]


async def test_embed_parameters_off_leaves_the_png_without_its_request(tmp_path):
    bench = make_bench(tmp_path, embed_parameters=False)
    async with working(bench), client_of(bench) as client:
        (image,) = await created(client)
        assert "parameters" not in decoded((await client.get(image["content"])).content).info


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


async def test_generated_clients_may_ask_for_bytes_and_send_them(bench: Bench):
    kind = {"Accept": "application/octet-stream", "Content-Type": "application/octet-stream"}
    async with client_of(bench) as client:
        sent = await client.post("/v1/images/upload", content=a_png(), headers=kind)
        received = await client.get(f"{sent.headers['location']}/content", headers=kind)
    assert (sent.status_code, received.status_code) == (201, 200)
    assert received.headers["content-type"] == "application/octet-stream"
    assert decoded(received.content).size == (64, 64)
