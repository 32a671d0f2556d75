"""Regions as resources, over HTTP with fakes."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from pipeline.imaging.masks import decode_mask
from pipeline.records import FIRST_SELECTED_REGION
from testing.harness import Bench
from tests.integration.clients import client_of, is_problem

pytestmark = pytest.mark.anyio

FORMS = {"as": ["polygons", "rle", "mask"]}
POINT = {"points": [{"x": 19, "y": 19}]}


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(bench) as client:
        yield client


@pytest.fixture
async def url(bench: Bench) -> str:
    """The URL of an image with two regions: a disc about (19, 19), an apple, and its surroundings, a plate."""
    return f"/v1/images/{(await bench.image(seed=3)).image_id}"


async def disc_of(bench: Bench, url: str) -> np.ndarray:
    record = await bench.services.images.find(url.rpartition("/")[2], owner="public", session="")
    found = await bench.segment(record, "r")
    return decode_mask(found.rles[0], found.size)


def opened(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(response.content))


async def test_regions_have_their_masks_in_the_requested_forms(bench: Bench, client: httpx.AsyncClient, url: str):
    listed = (await client.get(f"{url}/regions", params=FORMS)).json()
    by_comma = (await client.get(f"{url}/regions", params={"as": "polygons,rle,mask"})).json()
    plain = (await client.get(f"{url}/regions")).json()
    disc = await disc_of(bench, url)

    apple, plate = listed["data"]
    assert by_comma["data"] == listed["data"]
    assert (apple["label"], plate["label"]) == ("apple", "plate")
    assert apple["confidence"] == apple["labels"][0]["confidence"]
    assert apple["area"] == disc.sum()
    assert np.array_equal(coco.decode(apple["rle"]), disc)
    assert np.array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(apple["mask_b64"])))), disc)
    assert apple["polygons"] == plain["data"][0]["polygons"]
    assert plain["data"][0]["rle"] is plain["data"][0]["mask_b64"] is plain["data"][0]["match"] is None
    assert (listed["width"], listed["height"], listed["has_more"], listed["next"]) == (64, 64, False, None)


async def test_a_region_s_url_has_everything_of_it(bench: Bench, client: httpx.AsyncClient, url: str):
    (created,) = (await client.post(f"{url}/regions", json=POINT | FORMS)).json()["data"]
    disc = await disc_of(bench, url)

    assert created["region_id"] == FIRST_SELECTED_REGION
    found = (await client.get(created["url"])).json()
    assert {name: found[name] for name in created} == created
    assert found["mask"] == found["mask_b64"]
    mask = opened(await client.get(f"{created['url']}/mask.png"))
    assert np.array_equal(np.array(mask), disc)
    assert opened(await client.get(f"{created['url']}/spotlight.png")).size == (64, 64)


async def test_a_cutout_is_the_region_alone_in_its_box(bench: Bench, client: httpx.AsyncClient, url: str):
    disc = await disc_of(bench, url)
    rows, columns = np.nonzero(disc)
    top, left, height, width = rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1
    picture = np.array(opened(await client.get(f"{url}/content")))

    cutout = np.array(opened(await client.get(f"{url}/regions/0/cutout.png")))
    padded = opened(await client.get(f"{url}/regions/0/cutout.png", params={"padding": 2}))
    whole = opened(await client.get(f"{url}/regions/0/cutout.png", params={"padding": 1000}))

    inside = disc[top : top + height, left : left + width]
    assert cutout.shape == (height, width, 4)
    assert np.array_equal(cutout[..., 3], inside * 255)
    assert np.array_equal(cutout[inside, :3], picture[disc])
    assert padded.size == (width + 4, height + 4)
    assert whole.size == (64, 64)


async def test_a_drawing_of_a_region_is_revalidated_by_its_etag(client: httpx.AsyncClient, url: str):
    for drawing in ("mask", "cutout", "spotlight"):
        first = await client.get(f"{url}/regions/1/{drawing}.png")
        again = await client.get(f"{url}/regions/1/{drawing}.png", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_a_text_lists_the_regions_that_match_it(bench: Bench, client: httpx.AsyncClient, url: str):
    async def nothing(texts):
        return -np.eye(1, 8, dtype=np.float32).repeat(len(texts), 0)

    found = (await client.get(f"{url}/regions", params={"text": "apple"})).json()["data"]
    created = await client.post(f"{url}/regions", json={"text": "apple"})
    bench.workers.encode_texts = nothing
    none = (await client.get(f"{url}/regions", params={"text": "whale"})).json()["data"]

    assert found[0]["region_id"] == 0
    assert 0 < found[0]["match"] <= 1
    assert none == []
    assert (created.status_code, created.json()["data"]) == (201, found)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/regions/7", 404, "region_not_found"),
        ("/regions/7/mask.png", 404, "region_not_found"),
        (f"/regions/{2**31}", 404, "region_not_found"),
        (f"/regions/{10**30}/mask.png", 404, "region_not_found"),
        ("/regions/7/cutout.png", 404, "region_not_found"),
        ("/regions/0/cutout.png?padding=-1", 422, "invalid_request"),
        ("/regions?as=png", 422, "invalid_request"),
        ("/regions?text=", 422, "invalid_request"),
        ("/regions?labels=apple", 422, "invalid_request"),
    ],
)
async def test_bad_requests(client: httpx.AsyncClient, url: str, path: str, status: int, code: str):
    assert is_problem(await client.get(f"{url}{path}"), status, code)


@pytest.mark.parametrize(
    "body", [{}, {"text": "apple"} | POINT, POINT | {"as": ["png"]}, {"points": [{"x": 65, "y": 1}]}]
)
async def test_bad_bodies(client: httpx.AsyncClient, url: str, body: dict):
    assert is_problem(await client.post(f"{url}/regions", json=body), 422, "invalid_request")
