"""Images made from others, over HTTP with fakes: what may change changes, all else stays."""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
from PIL import Image

from pipeline.imaging.codecs import encode_png
from testing.harness import Bench
from tests.graph.clients import client_of, is_problem

pytestmark = pytest.mark.anyio

SIDE = 64


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(bench) as client:
        yield client


@pytest.fixture
async def url(bench: Bench) -> str:
    return f"/v1/images/{(await bench.image(seed=3)).image_id}"


async def pixels(client: httpx.AsyncClient, url: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO((await client.get(f"{url}/content")).content)))


async def edited(client: httpx.AsyncClient, url: str, **body: object) -> tuple[dict, np.ndarray]:
    answer = await client.post(f"{url}/edits", json={"prompt": "pear", "seed": 20} | body)
    assert answer.status_code == 201, answer.text
    (image,) = answer.json()["images"]
    return image, await pixels(client, f"/v1/images/{image['image_id']}")


def a_mask(side: int = SIDE, level: int = 255) -> tuple[np.ndarray, str]:
    mask = np.zeros((side, side, 3), np.uint8)
    mask[10:40, 20:50] = level
    return mask[..., 0] > 0, base64.b64encode(encode_png(mask)).decode()


async def test_only_what_a_mask_marks_changes(client: httpx.AsyncClient, url: str):
    before = await pixels(client, url)
    mask, encoded = a_mask()
    image, after = await edited(client, url, mask=encoded)

    assert np.array_equal(after[~mask], before[~mask])
    assert (after[mask] != before[mask]).any()
    source = image["request"]["source"]
    assert (source["image_id"], source["strength"]) == (url.rpartition("/")[2], 1.0)


async def test_a_region_changes_with_its_rim_and_nothing_else(client: httpx.AsyncClient, url: str):
    before = await pixels(client, url)
    disc = before[..., 0] > 0
    image, after = await edited(client, url, region=0)

    changed = (after != before).any(axis=2)
    assert changed[disc].any()
    grown = np.zeros_like(disc)
    for y in (-1, 0, 1):
        for x in (-1, 0, 1):
            grown |= np.roll(disc, (y, x), (0, 1))
    assert not changed[~grown].any()
    assert image["request"]["prompt"] == "pear"


async def test_a_concept_is_found_first(bench: Bench, client: httpx.AsyncClient, url: str):
    async def apple(texts):
        return np.eye(1, 8, dtype=np.float32).repeat(len(texts), 0)

    async def nothing(texts):
        return -np.eye(1, 8, dtype=np.float32).repeat(len(texts), 0)

    by_region, _ = await edited(client, url, region=0)
    bench.workers.encode_texts = apple
    by_concept, _ = await edited(client, url, concept="apple")
    bench.workers.encode_texts = nothing
    missing = await client.post(f"{url}/edits", json={"prompt": "pear", "concept": "castle"})

    assert by_concept["request"]["source"]["mask"] == by_region["request"]["source"]["mask"]
    assert is_problem(missing, 422, "concept_not_found")
    assert "castle" in missing.json()["detail"]


async def test_variations_are_several_with_the_image_s_own_prompt(client: httpx.AsyncClient, url: str):
    answer = await client.post(f"{url}/variations", json={"n": 2, "seed": 5, "strength": 0.4})
    other = await client.post(f"{url}/variations", json={"prompt": "a pear"})

    images = answer.json()["images"]
    assert [image["request"]["seed"] for image in images] == [5, 6]
    assert {image["request"]["prompt"] for image in images} == {"red apple"}
    assert {image["request"]["source"]["strength"] for image in images} == {0.4}
    assert other.json()["images"][0]["request"]["prompt"] == "a pear"


async def test_an_upload_is_varied_by_what_it_shows_at_the_nearest_size(client: httpx.AsyncClient):
    picture = np.full((100, 300, 3), 200, np.uint8)
    sent = await client.post("/v1/images/upload", content=encode_png(picture), headers={"Content-Type": "image/png"})
    answer = await client.post(f"{sent.headers['Location']}/variations", json={"seed": 1})

    (image,) = answer.json()["images"]
    assert image["request"]["prompt"] == "a photo of a apple"
    assert (image["width"], image["height"]) == (288, 96)


@pytest.mark.parametrize("way", ["variations", "edits"])
async def test_a_key_s_images_are_answered_again_even_if_their_source_is_gone(
    client: httpx.AsyncClient, url: str, way: str
):
    body, key = {"prompt": "pear", "n": 2, "steps": 2}, {"Idempotency-Key": "again"}
    first = await client.post(f"{url}/{way}", json=body, headers=key)
    await client.delete(url)
    again = await client.post(f"{url}/{way}", json=body, headers=key)
    other = await client.post(f"{url}/{way}", json=body | {"n": 1}, headers=key)

    assert [i["image_id"] for i in again.json()["images"]] == [i["image_id"] for i in first.json()["images"]]
    assert is_problem(other, 422, "idempotency_mismatch")


async def test_an_edit_whose_image_is_gone_fails_as_not_found(bench: Bench, client: httpx.AsyncClient, url: str):
    bench.workers.gate.clear()
    job = (await client.post(f"{url}/variations", json={}, headers={"Prefer": "respond-async"})).json()["jobs"][0]
    await client.delete(url)
    bench.workers.gate.set()
    again = await client.post(f"{url}/variations", json={})

    assert job["request"]["source"]["image_id"] == url.rpartition("/")[2]
    assert is_problem(again, 404, "image_not_found")


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"mask": "not base64!"}, 422, "base64"),
        ({"mask": base64.b64encode(b"no picture").decode()}, 422, "PNG"),
        ({"mask": a_mask(32)[1]}, 422, "64 x 64"),
        ({"mask": a_mask(level=0)[1]}, 422, "nothing"),
        ({"mask": a_mask()[1], "region": 0}, 422, "one of"),
        ({"region": 9}, 404, "9"),
        ({"strength": 0}, 422, "strength"),
        ({"strength": 0.01, "steps": 5}, 422, "strength"),
        ({"prompt": ""}, 422, "prompt"),
        ({"steps": 1000}, 422, "steps"),
        ({"width": 64}, 422, "width"),
    ],
)
async def test_what_cannot_be_done_is_said(client: httpx.AsyncClient, url: str, body: dict, status: int, word: str):
    answer = await client.post(f"{url}/edits", json={"prompt": "pear"} | body)
    assert is_problem(answer, status, answer.json()["code"])
    assert word in answer.json()["detail"]


async def test_another_s_image_cannot_be_changed(client: httpx.AsyncClient):
    for way in ("variations", "edits"):
        answer = await client.post(f"/v1/images/{uuid.uuid4()}/{way}", json={"prompt": "x"})
        assert is_problem(answer, 404, "image_not_found")
