"""What clients attach to images, include in responses, and filter lists by, over HTTP with fakes."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from PIL import Image

from pipeline.errors import StageFailed
from pipeline.events import ImageCreated
from pipeline.records import StepProgress
from testing.harness import Bench
from testing.waiting import PATIENCE_S, until
from tests.integration.clients import client_of, is_problem
from tests.integration.graphs.http.test_images import NO_IMAGE, a_png

pytestmark = pytest.mark.anyio

PNG = {"Content-Type": "image/png"}


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(bench) as client:
        yield client


async def created(client: httpx.AsyncClient, **body: Any) -> list[dict]:
    response = await client.post("/v1/images", json={"prompt": "pear", "steps": 2} | body)
    assert response.status_code == 201, response.text
    return response.json()["data"]


async def found(client: httpx.AsyncClient, **parameters: Any) -> list[str]:
    response = await client.get("/v1/images", params=parameters)
    assert response.status_code == 200, response.text
    return [image["image_id"] for image in response.json()["data"]]


async def test_metadata_and_tags_come_back_and_find_the_image(client: httpx.AsyncClient):
    (fruit,) = await created(client, metadata={"order": "7"}, tags=["fruit", "red", "fruit"])
    upload = await client.post("/v1/images/upload?tag=fruit&tag=mine&metadata[order]=8", content=a_png(), headers=PNG)
    fruit_id, upload_id = fruit["image_id"], upload.json()["image_id"]

    assert (fruit["metadata"], fruit["tags"]) == ({"order": "7"}, ["fruit", "red"])
    assert (upload.json()["metadata"], upload.json()["tags"]) == ({"order": "8"}, ["fruit", "mine"])
    assert (await client.get(fruit["url"])).json()["tags"] == ["fruit", "red"]
    assert await found(client, tag="fruit") == [upload_id, fruit_id]
    assert await found(client, tag=["fruit", "red"]) == await found(client, tag="fruit,red") == [fruit_id]
    assert await found(client, **{"metadata[order]": "8"}) == [upload_id]
    assert await found(client, tag="mine", **{"metadata[order]": "7"}) == []


async def test_jobs_pass_metadata_and_tags_on_to_their_images(client: httpx.AsyncClient):
    body = {"prompt": "pear", "steps": 1, "tags": ["later"], "n": 2}
    response = await client.post("/v1/images", json=body, headers={"Prefer": "respond-async, wait=20"})
    assert (response.status_code, response.headers["preference-applied"]) == (201, "wait=20")
    assert await found(client, tag="later") == [image["image_id"] for image in response.json()["data"]][::-1]


async def test_an_update_merges_metadata_and_replaces_tags(client: httpx.AsyncClient):
    (image,) = await created(client, metadata={"order": "7", "shelf": "2"}, tags=["fruit"])

    own = {"X-Request-ID": "update-1"}
    changed = await client.patch(image["url"], json={"metadata": {"order": None, "note": "ripe"}}, headers=own)
    retagged = await client.patch(image["url"], json={"tags": []})

    assert changed.status_code == 200
    events = (await client.get("/v1/events?request_id=update-1", headers={"Accept": "application/json"})).json()["data"]
    assert [event["type"] for event in events] == ["image.updated"]
    assert (changed.json()["metadata"], changed.json()["tags"]) == ({"shelf": "2", "note": "ripe"}, ["fruit"])
    assert (retagged.json()["metadata"], retagged.json()["tags"]) == ({"shelf": "2", "note": "ripe"}, [])
    assert is_problem(await client.patch(f"/v1/images/{NO_IMAGE}", json={"tags": []}), 404, "image_not_found")


async def test_too_many_keys_are_refused_also_after_merging(client: httpx.AsyncClient):
    (image,) = await created(client, metadata={f"a{number}": "" for number in range(50)})
    refused = await client.patch(image["url"], json={"metadata": {"b": "1"}})
    replaced = await client.patch(image["url"], json={"metadata": {"b": "1", "a0": None}})
    assert is_problem(refused, 422, "invalid_request")
    assert len(replaced.json()["metadata"]) == 50


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"": "x"}},
        {"metadata": {"a b": "x"}},
        {"metadata": {"a": 1}},
        {"metadata": {"a": "x" * 501}},
        {"metadata": {f"a{number}": "" for number in range(51)}},
        {"tags": ["a,b"]},
        {"tags": [""]},
        {"tags": ["x" * 65]},
        {"tags": [f"a{number}" for number in range(21)]},
        {"tags": "fruit"},
    ],
)
async def test_bad_annotations_are_refused(client: httpx.AsyncClient, body: dict):
    (image,) = await created(client)
    assert is_problem(await client.patch(image["url"], json=body), 422, "invalid_request")
    assert is_problem(await client.post("/v1/images", json={"prompt": "pear"} | body), 422, "invalid_request")


@pytest.mark.parametrize("query", ["metadata[]=x", "metadata[a b]=x", "metadata=x", "meta[order]=7", "tag=a%00b"])
async def test_bad_filters_are_refused(client: httpx.AsyncClient, query: str):
    assert is_problem(await client.get(f"/v1/images?{query}"), 422, "invalid_request")


async def test_an_image_knows_where_it_is_from(bench: Bench, client: httpx.AsyncClient):
    (image,) = await created(client)
    (variation,) = (await client.post(f"{image['url']}/variations", json={"steps": 4})).json()["data"]
    upload = (await client.post("/v1/images/upload", content=a_png(), headers=PNG)).json()
    job = (await client.get(f"/v1/jobs/{variation['job_id']}")).json()

    assert (image["origin"], image["made_from"]) == ("generated", None)
    assert image["model"] == {"name": bench.services.profile.name, "fingerprint": bench.workers.model}
    assert (variation["origin"], variation["made_from"]) == ("generated", image["image_id"])
    assert job["result"]["image_id"] == variation["image_id"]
    assert (upload["origin"], upload["model"], upload["job_id"]) == ("uploaded", None, None)
    assert await found(client, made_from=image["image_id"]) == [variation["image_id"]]


async def test_seeds_make_one_image_each(client: httpx.AsyncClient):
    images = await created(client, seeds=[5, 1])
    assert [image["parameters"]["seed"] for image in images] == [5, 1]
    for wrong in ({"seeds": [1], "n": 2}, {"seeds": [1], "seed": 1}, {"seeds": []}, {"seeds": [-1]}):
        response = await client.post("/v1/images", json={"prompt": "pear"} | wrong)
        assert is_problem(response, 422, "invalid_request")


async def test_a_response_includes_content_labels_and_regions(client: httpx.AsyncClient):
    (image,) = await created(client, include=["content", "labels", "regions"], output_format="webp")
    picture = Image.open(io.BytesIO(base64.b64decode(image["content_b64"])))
    analysis = (await client.get(f"{image['url']}/labels")).json()
    regions = (await client.get(f"{image['url']}/regions?as=rle")).json()["data"]

    assert (picture.format, picture.size) == ("WEBP", (image["width"], image["height"]))
    assert image["labels"][0]["label"] == analysis["labels"][0]["label"]
    assert image["regions"] == regions
    read = (await client.get(image["url"], params={"include": "content,labels,regions"})).json()
    assert (read["labels"], read["regions"]) == (image["labels"], regions)
    assert Image.open(io.BytesIO(base64.b64decode(read["content_b64"]))).format == "PNG"
    plain = (await client.get(image["url"])).json()
    assert plain["content_b64"] is plain["labels"] is plain["regions"] is None


async def test_an_upload_includes_what_it_shows(client: httpx.AsyncClient):
    response = await client.post("/v1/images/upload?include=labels&include=regions", content=a_png(), headers=PNG)
    assert len(response.json()["labels"]) == 5
    assert response.json()["regions"]


async def test_a_list_includes_the_labels_that_are_known(client: httpx.AsyncClient):
    (known,) = await created(client, include=["labels"])
    await created(client, seed=9)
    listed = (await client.get("/v1/images?include=labels")).json()["data"]
    assert [image["labels"] for image in listed] == [None, known["labels"]]
    assert is_problem(await client.get("/v1/images?include=content"), 422, "invalid_request")


async def test_a_list_goes_in_either_order_and_has_its_end(client: httpx.AsyncClient):
    ids = [(await created(client, seed=seed))[0]["image_id"] for seed in range(3)]
    page = (await client.get("/v1/images?order=asc&limit=2")).json()
    rest = (await client.get("/v1/images", params={"order": "asc", "after": page["next"]})).json()

    assert [image["image_id"] for image in page["data"] + rest["data"]] == ids
    assert (page["has_more"], rest["has_more"], rest["next"]) == (True, False, None)
    assert await found(client, image_id=[ids[0], NO_IMAGE]) == [ids[0]]
    assert await found(client, image_id=f"{ids[0]},{ids[2]}") == [ids[2], ids[0]]


async def test_several_images_are_deleted_at_once(client: httpx.AsyncClient):
    ids = [(await created(client, seed=seed))[0]["image_id"] for seed in range(2)]
    response = await client.post("/v1/images/delete", json={"image_ids": [ids[1], NO_IMAGE]})
    assert response.json()["data"] == [
        {"image_id": ids[1], "deleted": True},
        {"image_id": NO_IMAGE, "deleted": False},
    ]
    assert await found(client) == [ids[0]]
    assert is_problem(await client.post("/v1/images/delete", json={"image_ids": []}), 422, "invalid_request")


async def test_a_caller_waits_for_so_long_and_gets_the_jobs_then(bench: Bench, client: httpx.AsyncClient):
    bench.workers.gate.clear()
    waited = await client.post("/v1/images", json={"prompt": "pear", "n": 2}, headers={"Prefer": "wait=0"})
    one = await client.post("/v1/images", json={"prompt": "pear"}, headers={"Prefer": "foo, RESPOND-async; x=1"})
    ignored = client.post("/v1/images", json={"prompt": "pear", "seed": 1}, headers={"Prefer": "wait=soon"})
    bench.workers.gate.set()

    assert (waited.status_code, waited.headers["preference-applied"]) == (202, "wait=0")
    assert waited.headers["retry-after"] == "1"
    listed = (await client.get(waited.headers["location"])).json()["data"]
    assert {job["job_id"] for job in listed} == {job["job_id"] for job in waited.json()["data"]}
    assert (one.status_code, one.headers["preference-applied"]) == (202, "respond-async")
    assert one.headers["location"] == one.json()["data"][0]["url"]
    assert (await ignored).status_code == 201


async def test_jobs_are_found_by_their_request(client: httpx.AsyncClient):
    headers = {"Prefer": "respond-async", "X-Request-ID": "batch-7"}
    await client.post("/v1/images", json={"prompt": "pear", "n": 2, "steps": 1}, headers=headers)
    await created(client)
    jobs = (await client.get("/v1/jobs?request_id=batch-7")).json()["data"]
    assert [job["request_id"] for job in jobs] == ["batch-7"] * 2


@pytest.mark.parametrize("prefer", ["", "wait=20"])
async def test_a_failure_of_one_image_names_those_that_were_made(bench: Bench, client: httpx.AsyncClient, prefer: str):
    generate = bench.workers.generate

    async def failing_for_seed_2(request, *args):
        if request.seed == 2:
            raise StageFailed(stage="generate", reason="it can't")
        async for item in generate(request, *args):
            yield item

    bench.workers.generate = failing_for_seed_2
    body = {"prompt": "pear", "steps": 1, "seeds": [1, 2, 3]}
    response = await client.post("/v1/images", json=body, headers={"Prefer": prefer} if prefer else {})

    assert is_problem(response, 500, "stage_failed")
    assert sorted(response.json()["image_ids"]) == sorted(await found(client))
    assert len(response.json()["image_ids"]) == 2


async def test_a_failure_of_what_is_included_names_the_image(bench: Bench, client: httpx.AsyncClient):
    bench.workers.deaths["segment"] = 99
    made = await client.post("/v1/images", json={"prompt": "pear", "steps": 1, "include": ["regions"]})
    uploaded = await client.post("/v1/images/upload?include=regions", content=a_png(), headers=PNG)

    assert is_problem(made, 503, "worker_lost")
    assert is_problem(uploaded, 503, "worker_lost")
    assert await found(client) == [*uploaded.json()["image_ids"], *made.json()["image_ids"]]


async def test_a_key_of_an_upload_is_bound_to_its_tags(client: httpx.AsyncClient):
    key = PNG | {"Idempotency-Key": "photo"}
    first = await client.post("/v1/images/upload?tag=a&tag=a", content=a_png(), headers=key)
    again = await client.post("/v1/images/upload?tag=a", content=a_png(), headers=key)
    other = await client.post("/v1/images/upload?tag=b", content=a_png(), headers=key)
    assert first.json()["tags"] == ["a"]
    assert again.json()["image_id"] == first.json()["image_id"]
    assert is_problem(other, 422, "idempotency_mismatch")


async def test_the_first_of_two_preferences_counts(bench: Bench, client: httpx.AsyncClient):
    bench.workers.gate.clear()
    headers = [("Prefer", "wait=0"), ("Prefer", "wait=50, respond-async")]
    response = await client.post("/v1/images", json={"prompt": "pear"}, headers=headers)
    bench.workers.gate.set()
    assert (response.status_code, response.headers["preference-applied"]) == (202, "wait=0")


async def test_a_body_with_thousands_of_mistakes_is_answered_in_short(client: httpx.AsyncClient):
    for body in ({"include": ["b" * 50] * 150}, {f"{number}": 1 for number in range(900)}):
        response = await client.post("/v1/images", json={"prompt": "pear"} | body)
        assert is_problem(response, 422, "invalid_request")
        assert len(response.content) < 20_000


async def test_a_poller_sees_the_progress_and_the_newest_preview(bench: Bench, client: httpx.AsyncClient):
    may_go_on = asyncio.Event()
    generate = bench.workers.generate

    async def pausing(request, *args):
        async for item in generate(request, *args):
            yield item
            if isinstance(item, StepProgress) and item.step == 3:
                await may_go_on.wait()

    bench.workers.generate = pausing
    accepted = await client.post("/v1/images", json={"prompt": "pear", "steps": 4}, headers={"Prefer": "respond-async"})
    (job,) = accepted.json()["data"]
    async with asyncio.timeout(PATIENCE_S):
        while job["step"] != 3:
            job = (await client.get(job["url"])).json()
    preview = await client.get(job["preview_url"])
    may_go_on.set()
    await until(lambda: bench.of(ImageCreated))
    async with asyncio.timeout(PATIENCE_S):
        while job["state"] != "succeeded":
            job = (await client.get(job["url"])).json()

    assert (job["num_steps"], job["step"], job["preview_url"]) == (None, None, None)
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert preview.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(preview.content)).getpixel((0, 0)) == (3, 3, 3)
    assert is_problem(await client.get(f"{job['url']}/preview.png"), 404, "preview_not_found")
