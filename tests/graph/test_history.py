"""The images one has, over HTTP with fakes."""

from __future__ import annotations

import asyncio
import io
import uuid

import httpx
import pytest
from PIL import Image

from pipeline.events import ImageCreated, ImageDeleted
from pipeline.settings import Admission
from tests.graph.conftest import Bench
from tests.graph.test_http import client_of, is_problem

pytestmark = pytest.mark.anyio


def a_png(side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


async def made(client: httpx.AsyncClient, seed: int) -> str:
    return (await client.post("/generate", json={"prompt": "pear", "seed": seed, "steps": 2})).json()["image_id"]


async def test_an_upload_sent_twice_with_one_key_is_one_image(bench: Bench):
    client = client_of(bench, Admission())
    key = {"Idempotency-Key": "photo-1", "Content-Type": "image/png"}
    picture, other = a_png(64), a_png(65)
    answers = await asyncio.gather(*(client.post("/v1/images/upload", content=picture, headers=key) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["image_id"] for answer in answers}) == 1
    assert len((await client.get("/v1/images")).json()["images"]) == 1
    assert len(bench.of(ImageCreated)) == 1
    form = {"file": ("photo.png", picture, "image/png")}  # the same picture, wrapped anew each time
    again = await client.post("/v1/images/upload", files=form, headers={"Idempotency-Key": "photo-1"})
    assert again.json()["image_id"] == answers[0].json()["image_id"]
    assert is_problem(await client.post("/v1/images/upload", content=other, headers=key), 422, "idempotency_mismatch")


async def test_history_comes_in_pages_with_what_made_each_image(bench: Bench):
    async with client_of(bench) as client:
        ids = [await made(client, seed) for seed in range(5)]

        first = (await client.get("/v1/images", params={"limit": 3})).json()
        rest = (await client.get("/v1/images", params={"limit": 3, "before": first["next"]})).json()

    assert [image["image_id"] for image in first["images"] + rest["images"]] == ids[::-1]
    assert rest["next"] is None
    assert first["images"][0]["request"]["prompt"] == "pear"
    assert first["images"][0]["request"]["seed"] == 4


async def test_an_image_s_content_never_changes(bench: Bench):
    async with client_of(bench) as client:
        image = (await client.get(f"/v1/images/{await made(client, 1)}")).json()
        content = await client.get(image["content"])
        again = await client.get(image["content"], headers={"If-None-Match": content.headers["etag"]})

    assert content.headers["content-type"] == "image/png"
    assert "immutable" in content.headers["cache-control"]
    assert Image.open(io.BytesIO(content.content)).size == (image["width"], image["height"])
    assert (again.status_code, again.content) == (304, b"")


async def test_a_deleted_image_is_gone_and_the_session_has_none(bench: Bench):
    async with client_of(bench) as client:
        image_id = await made(client, 1)
        await client.post("/segment")

        assert (await client.delete(f"/v1/images/{image_id}")).status_code == 204

        for path in ("", "/content"):
            assert is_problem(await client.get(f"/v1/images/{image_id}{path}"), 404, "image_not_found")
        assert is_problem(await client.delete(f"/v1/images/{image_id}"), 404, "image_not_found")
        assert is_problem(await client.post("/segment"), 400, "no_image_yet")
        assert (await client.get("/v1/images")).json()["images"] == []
    assert [event.image_id for event in bench.of(ImageDeleted)] == [image_id]


@pytest.mark.parametrize("way", ["body", "form"])
async def test_an_upload_becomes_the_session_s_last_image(bench: Bench, way: str):
    async with client_of(bench) as client:
        if way == "body":
            answer = await client.post("/v1/images/upload", content=a_png(), headers={"Content-Type": "image/png"})
        else:
            answer = await client.post("/v1/images/upload", files={"file": ("mine.png", a_png(), "image/png")})
        uploaded = answer.json()
        segments = (await client.post("/segment")).json()
        image = (await client.get(answer.headers["location"])).json()

    assert answer.status_code == 201
    assert segments["image_id"] == uploaded["image_id"] == image["image_id"]
    assert (image["width"], image["height"], image["request"]) == (64, 64, None)


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        pytest.param(b"not a picture", "image/png", 422, "invalid_upload", id="no picture"),
        pytest.param(a_png()[:60], "image/png", 422, "invalid_upload", id="truncated"),
        pytest.param(a_png(8), "image/png", 422, "invalid_upload", id="too small"),
        pytest.param(a_png(), "text/plain", 422, "invalid_upload", id="wrong type"),
        pytest.param(a_png(), "", 422, "invalid_upload", id="no type"),
        pytest.param(b"x" * 200_000, "image/png", 413, "body_too_large", id="too large"),
        pytest.param(b"garbage", "multipart/form-data; boundary=x", 422, "invalid_upload", id="broken form"),
        pytest.param(b"--x--\r\n", "multipart/form-data; boundary=x", 422, "invalid_upload", id="empty form"),
    ],
)
async def test_bad_uploads(bench: Bench, content: bytes, kind: str, status: int, code: str):
    async with client_of(bench, Admission(max_upload_bytes=100_000)) as client:
        answer = await client.post("/v1/images/upload", content=content, headers={"Content-Type": kind} if kind else {})

    assert is_problem(answer, status, code)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/v1/images/{uuid.uuid4()}", 404, "image_not_found"),
        (f"/v1/images/{uuid.uuid4()}/content", 404, "image_not_found"),
        ("/v1/images/nonsense", 422, "invalid_request"),
        ("/v1/images?limit=0", 422, "invalid_request"),
        ("/v1/images?before=x", 422, "invalid_request"),
    ],
)
async def test_bad_questions(bench: Bench, path: str, status: int, code: str):
    async with client_of(bench) as client:
        assert is_problem(await client.get(path), status, code)


async def test_prometheus_is_told_what_is_stored(bench: Bench):
    async with client_of(bench) as client:
        await made(client, 1)
        metrics = (await client.get("/metrics")).text

    assert "pipeline_store_images 1.0" in metrics
    assert "pipeline_store_events 4.0" in metrics  # a job submitted, started, succeeded, and its image
    assert "pipeline_store_newest_image_age_seconds" in metrics


async def test_results_are_there_after_a_restart(bench: Bench):
    """A new flow over the same store, with an empty cache: nothing is computed again."""
    from tests.graph.conftest import make_bench

    image = await bench.image()
    before = await bench.flow.analyze(image, "r")

    restarted = make_bench(bench.settings.data_path)
    after = await restarted.flow.analyze(image, "r")

    assert after.segmentation.rles == before.segmentation.rles
    assert after.drawings == before.drawings
    assert not restarted.workers.calls
