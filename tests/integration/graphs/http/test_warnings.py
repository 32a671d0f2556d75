"""Warnings over HTTP with fakes: requests beyond what the models know succeed, with a warning."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from httpx_sse import aconnect_sse

from testing.harness import Bench
from tests.integration.clients import client_of
from tests.integration.graphs.http.test_images import a_png

pytestmark = pytest.mark.anyio

BEACH = {"prompt": "a photo of a dog on a beach", "negative_prompt": "blue cats", "seed": 3, "steps": 2}
APPLE = {"prompt": "red apple in white plate", "seed": 3, "steps": 2}
WORDS = ["dog", "beach", "cats"]
PNG = {"Content-Type": "image/png"}
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(bench) as client:
        yield client


def warned(response: dict) -> dict[str, list[str]]:
    """Return the words of each warning by its code."""
    codes = [warning["code"] for warning in response["warnings"]]
    assert len(set(codes)) == len(codes)
    assert all(warning["detail"].endswith(".") for warning in response["warnings"])
    return {warning["code"]: warning["words"] for warning in response["warnings"]}


async def last_event(client: httpx.AsyncClient, method: str, url: str, **sent) -> dict:
    async with aconnect_sse(client, method, url, **sent) as source:
        return json.loads([event async for event in source.aiter_sse() if event.data][-1].data)


async def test_unknown_words_are_reported_with_the_image_and_its_analyses(client: httpx.AsyncClient):
    generated = await client.post("/generate", json=BEACH)
    image = f"/v1/images/{generated.json()['image_id']}"

    assert generated.status_code == 200
    assert warned(generated.json()) == {"unknown_words": WORDS}
    assert '"dog"' in generated.json()["warnings"][0]["detail"]
    for response in (
        await client.post("/analyze"),
        await client.post("/segment"),
        await client.get(image),
        await client.get(f"{image}/analysis"),
        await client.get(f"{image}/analysis", params={"labels": "cat,dog"}),
    ):
        assert warned(response.json()) == {"unknown_words": WORDS}
    listed = (await client.get("/v1/images")).json()["images"]
    assert [warned(stored) for stored in listed] == [{"unknown_words": WORDS}]


async def test_known_words_cause_no_warning(client: httpx.AsyncClient):
    generated = (await client.post("/generate", json=APPLE)).json()
    image = f"/v1/images/{generated['image_id']}"
    responses = [
        generated,
        (await client.post("/analyze")).json(),
        (await client.post("/segment")).json(),
        (await client.get(image)).json(),
        (await client.get(f"{image}/analysis")).json(),
        (await client.get("/v1/jobs")).json()["jobs"][0],
    ]
    assert [response["warnings"] for response in responses] == [[]] * len(responses)


async def test_the_warning_for_a_plural_suggests_the_known_word(client: httpx.AsyncClient):
    (warning,) = (await client.post("/generate", json=APPLE | {"prompt": "red apples"})).json()["warnings"]
    assert warning["words"] == ["apples"]
    assert '"apple" instead of "apples"' in warning["detail"]


async def test_images_jobs_and_last_events_have_the_warnings(client: httpx.AsyncClient):
    generated = (await client.post("/v1/images", json=BEACH | {"n": 2})).json()
    accepted = (await client.post("/v1/images", json=BEACH, headers={"Prefer": "respond-async"})).json()
    legacy = (await client.post("/generate", json=BEACH, headers={"Prefer": "respond-async"})).json()
    (image, _) = generated["images"]
    varied = await client.post(f"/v1/images/{image['image_id']}/variations", json={"steps": 2})
    edited = await client.post(f"/v1/images/{image['image_id']}/edits", json={"prompt": "a green zebra", "steps": 2})
    finished = await last_event(client, "GET", f"{legacy['url']}/events", headers={"Last-Event-ID": "0"})
    streamed = await last_event(client, "POST", "/generate", json=BEACH, headers=STREAM)
    several = await last_event(client, "POST", "/v1/images", json=BEACH, headers=STREAM)
    ended = (await client.get(legacy["url"])).json()

    responses = [*generated["images"], *accepted["jobs"], legacy, *finished["data"], streamed, ended]
    assert [warned(response) for response in [*responses, *several["images"]]] == [{"unknown_words": WORDS}] * 8
    assert warned(varied.json()["images"][0]) == {"unknown_words": ["dog", "beach"]}  # the image's own prompt
    assert warned(edited.json()["images"][0]) == {"unknown_words": ["zebra"]}


async def test_openai_responses_have_the_warnings(client: httpx.AsyncClient):
    url, body = "/v1/images/generations", {"prompt": BEACH["prompt"], "size": "64x64", "steps": 2}
    assert warned((await client.post(url, json=body)).json()) == {"unknown_words": ["dog", "beach"]}
    completed = await last_event(client, "POST", url, json=body | {"stream": True})
    assert warned(completed) == {"unknown_words": ["dog", "beach"]}


async def test_an_unknown_image_is_reported_with_its_analyses(bench: Bench, client: httpx.AsyncClient):
    bench.workers.unknown = 0.8
    uploaded = await client.post("/v1/images/upload", content=a_png(), headers=PNG)
    image = uploaded.headers["Location"]
    before = (await client.get(image)).json()
    assert bench.workers.calls["describe"] == 0  # getting an image computes nothing
    described = [await client.post("/analyze"), await client.post("/segment"), await client.get(f"{image}/analysis")]
    after = (await client.get(image)).json()

    assert before["warnings"] == []
    assert [warned(response.json()) for response in described] == [{"unknown_picture": []}] * 3
    assert warned(after) == {"unknown_picture": []}
    assert "80%" in after["warnings"][0]["detail"]


async def test_a_generated_image_may_have_both_warnings(bench: Bench, client: httpx.AsyncClient):
    bench.workers.unknown = 0.51
    generated = (await client.post("/generate", json=BEACH)).json()
    assert warned(generated) == {"unknown_words": WORDS, "unknown_picture": []}


async def test_a_share_within_the_bound_causes_no_warning(bench: Bench, client: httpx.AsyncClient):
    bench.workers.unknown = 0.5
    assert (await client.post("/generate", json=APPLE)).json()["warnings"] == []


async def test_the_prompt_of_an_upload_causes_no_warning(
    client: httpx.AsyncClient,
):
    generated = (await client.post("/generate", json=BEACH)).json()
    png = (await client.get(f"/v1/images/{generated['image_id']}/content")).content
    uploaded = await client.post("/v1/images/upload", content=png, headers=PNG)
    back = (await client.get(uploaded.headers["Location"])).json()
    assert back["request"]["prompt"] == BEACH["prompt"]
    assert back["warnings"] == []
