"""Edits and variations over HTTP with fakes: pixels outside the mask do not change."""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
from PIL import Image

from pipeline.imaging.codecs import encode_png
from testing.harness import Bench
from tests.integration.clients import client_of, is_problem

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
    response = await client.post(f"{url}/edits", json={"prompt": "pear", "seed": 20} | body)
    assert response.status_code == 201, response.text
    (image,) = response.json()["images"]
    return image, await pixels(client, f"/v1/images/{image['image_id']}")


def a_mask(side: int = SIDE, level: int = 255) -> tuple[np.ndarray, str]:
    mask = np.zeros((side, side, 3), np.uint8)
    mask[10:40, 20:50] = level
    return mask[..., 0] > 0, base64.b64encode(encode_png(mask)).decode()


async def test_only_masked_pixels_change(client: httpx.AsyncClient, url: str):
    before = await pixels(client, url)
    mask, encoded = a_mask()
    image, after = await edited(client, url, mask=encoded)

    assert np.array_equal(after[~mask], before[~mask])
    assert (after[mask] != before[mask]).any()
    source = image["request"]["source"]
    assert (source["image_id"], source["strength"]) == (url.rpartition("/")[2], 1.0)


async def test_only_a_region_and_its_border_change(client: httpx.AsyncClient, url: str):
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


async def test_a_region_by_points_is_edited_where_it_is(client: httpx.AsyncClient, url: str):
    points = [{"x": 1, "y": 1}]  # outside of the disc, which is region 0
    region = (await client.post(f"{url}/segments", json={"points": points})).json()["segments"][0]
    by_id, _ = await edited(client, url, region=region["region_id"])
    by_points, _ = await edited(client, url, points=points)
    disc, _ = await edited(client, url, region=0)

    assert by_id["request"]["source"]["mask"] == by_points["request"]["source"]["mask"]
    assert by_id["request"]["source"]["mask"] != disc["request"]["source"]["mask"]


async def test_an_unknown_region_is_named_as_the_field_that_is_wrong(client: httpx.AsyncClient, url: str):
    for region in (7, 1_000_007):
        response = await client.post(f"{url}/edits", json={"prompt": "pear", "region": region})
        assert is_problem(response, 422, "invalid_request")
        assert response.json()["errors"][0]["field"] == "area.region_ids"


async def test_an_edit_is_not_refused_by_busy_analyses(bench: Bench, client: httpx.AsyncClient, url: str):
    admission = bench.services.analysis_admission
    with ExitStack() as stack:
        for number in range(bench.settings.admission.max_stages):
            stack.enter_context(admission.admit(f"other-{number}"))
        edit = await client.post(f"{url}/edits", json={"prompt": "pear", "area": {"points": [{"x": 19, "y": 19}]}})
    assert edit.status_code == 201, edit.text


async def test_huge_region_ids_are_refused(client: httpx.AsyncClient, url: str):
    response = await client.post(f"{url}/edits", json={"prompt": "pear", "area": {"region_ids": [2**63]}})
    assert is_problem(response, 422, "invalid_request")


@pytest.mark.parametrize("area", [{"region": 0, "concept": "apple"}, {"region": 0, "points": [{"x": 1, "y": 1}]}])
async def test_two_areas_are_refused(client: httpx.AsyncClient, url: str, area: dict):
    assert is_problem(await client.post(f"{url}/edits", json={"prompt": "pear", **area}), 422, "invalid_request")


async def test_a_concept_is_edited_in_its_region(bench: Bench, client: httpx.AsyncClient, url: str):
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


async def test_variations_use_the_prompt_of_the_image(client: httpx.AsyncClient, url: str):
    response = await client.post(f"{url}/variations", json={"n": 2, "seed": 5, "strength": 0.4})
    other = await client.post(f"{url}/variations", json={"prompt": "a pear"})

    images = response.json()["images"]
    assert [image["request"]["seed"] for image in images] == [5, 6]
    assert {image["request"]["prompt"] for image in images} == {"red apple"}
    assert {image["request"]["source"]["strength"] for image in images} == {0.4}
    assert other.json()["images"][0]["request"]["prompt"] == "a pear"


async def test_a_variation_of_an_upload_uses_its_label_and_the_nearest_size(client: httpx.AsyncClient):
    gray = np.full((100, 300, 3), 200, np.uint8)
    sent = await client.post("/v1/images/upload", content=encode_png(gray), headers={"Content-Type": "image/png"})
    response = await client.post(f"{sent.headers['Location']}/variations", json={"seed": 1})

    (image,) = response.json()["images"]
    assert image["request"]["prompt"] == "a photo of a apple"
    assert (image["width"], image["height"]) == (288, 96)


@pytest.mark.parametrize("operation", ["variations", "edits"])
async def test_an_idempotent_request_returns_its_images_even_if_the_source_is_deleted(
    client: httpx.AsyncClient, url: str, operation: str
):
    body, key = {"prompt": "pear", "n": 2, "steps": 2}, {"Idempotency-Key": "again"}
    first = await client.post(f"{url}/{operation}", json=body, headers=key)
    await client.delete(url)
    again = await client.post(f"{url}/{operation}", json=body, headers=key)
    other = await client.post(f"{url}/{operation}", json=body | {"n": 1}, headers=key)

    assert [i["image_id"] for i in again.json()["images"]] == [i["image_id"] for i in first.json()["images"]]
    assert is_problem(other, 422, "idempotency_mismatch")


async def test_an_edit_of_a_deleted_image_is_not_found(bench: Bench, client: httpx.AsyncClient, url: str):
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
        ({"region": 9}, 422, "9"),
        ({"strength": 0}, 422, "strength"),
        ({"strength": 0.01, "steps": 5}, 422, "strength"),
        ({"prompt": ""}, 422, "prompt"),
        ({"steps": 1000}, 422, "steps"),
        ({"width": 64}, 422, "width"),
    ],
)
async def test_invalid_edits_return_a_problem(client: httpx.AsyncClient, url: str, body: dict, status: int, word: str):
    response = await client.post(f"{url}/edits", json={"prompt": "pear"} | body)
    assert is_problem(response, status, response.json()["code"])
    assert word in response.json()["detail"]


async def test_edits_of_an_unknown_image_are_not_found(client: httpx.AsyncClient):
    for operation in ("variations", "edits"):
        response = await client.post(f"/v1/images/{uuid.uuid4()}/{operation}", json={"prompt": "x"})
        assert is_problem(response, 404, "image_not_found")
