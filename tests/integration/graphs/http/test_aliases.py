"""Deprecated names: each answers what the name that replaced it answers, and says so by header."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from docs.openapi import document
from testing.harness import Bench
from tests.integration.clients import client_of, is_problem

pytestmark = pytest.mark.anyio

Json = dict[str, Any]


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(bench) as client:
        yield client


@pytest.fixture
async def image(client: httpx.AsyncClient) -> Json:
    """The newest of two images."""
    for seed in (2, 3):
        response = await client.post("/v1/images", json={"prompt": "pear", "steps": 2, "seed": seed})
    return response.json()["data"][0]


def without(names: set[str], facts: Json) -> Json:
    return {name: value for name, value in facts.items() if name not in names}


def as_segment(region: Json) -> Json:
    """A region in the form of `/segments`."""
    renamed = {"score": region["match"], "polygon": region["polygons"], "mask": region["mask_b64"]}
    return without({"url", "label", "confidence", "match", "polygons", "mask_b64"}, region) | renamed


def as_segments(regions: Json) -> Json:
    own = without({"data", "has_more", "next", "request_id"}, regions)
    return own | {"segments": [as_segment(region) for region in regions["data"]]}


def without_request_id(facts: Json) -> Json:
    return without({"request_id"}, facts)


def same(facts: Any) -> Any:
    return facts


@pytest.mark.parametrize(
    ("older", "newer", "renamed"),
    [
        ("/segments", "/regions", as_segments),
        ("/segments?format=polygons", "/regions?as=polygons", as_segments),
        ("/segments?format=rle", "/regions?as=rle", as_segments),
        ("/segments?format=png", "/regions?as=mask", as_segments),
        ("/segments?format=coco", "/regions.coco.json", same),
        ("/analysis", "/labels", without_request_id),
        ("/analysis?labels=cat,dog", "/labels?label=cat&label=dog", without_request_id),
        ("/analysis?labels=cat&templates=a {label}", "/labels?label=cat&template=a {label}", without_request_id),
    ],
)
async def test_the_older_call_returns_what_the_newer_returns(
    client: httpx.AsyncClient, image: Json, older: str, newer: str, renamed: Callable[[Json], Json]
):
    old, new = await client.get(f"{image['url']}{older}"), await client.get(f"{image['url']}{newer}")
    assert (old.status_code, new.status_code) == (200, 200), (old.text, new.text)
    assert without_request_id(old.json()) == renamed(new.json())
    assert old.headers["deprecation"].startswith("@")
    successor = newer.partition("?")[0].replace(".coco.json", "")
    assert old.headers["link"] == f'<{image["url"]}{successor}>; rel="successor-version"'
    assert "deprecation" not in new.headers


async def test_regions_by_points_or_text_are_the_same_by_both_names(client: httpx.AsyncClient, image: Json):
    for body in ({"points": [{"x": 19, "y": 19}]}, {"text": "apple"}):
        new = await client.post(f"{image['url']}/regions", json=body)
        old = await client.post(f"{image['url']}/segments", json=body)
        assert without_request_id(old.json()) == as_segments(new.json())
        assert "deprecation" in old.headers


async def test_spotlights_are_the_same_by_both_names(client: httpx.AsyncClient, image: Json):
    old = await client.get(f"{image['url']}/spotlights/1.png")
    new = await client.get(f"{image['url']}/regions/1/spotlight.png")
    assert old.content == new.content
    assert old.headers["link"] == f'<{image["url"]}/regions/1/spotlight.png>; rel="successor-version"'


async def test_fields_are_the_same_by_both_names(client: httpx.AsyncClient, image: Json):
    assert image["content"] == image["content_url"]
    assert image["request"] == image["parameters"]
    images, jobs = (await client.get("/v1/images")).json(), (await client.get("/v1/jobs")).json()
    assert images["images"] == images["data"]
    assert jobs["jobs"] == jobs["data"]
    created = (await client.post("/v1/images", json={"prompt": "pear", "steps": 2})).json()
    assert created["images"] == created["data"]
    accepted = await client.post("/v1/images", json={"prompt": "pear", "steps": 2}, headers={"Prefer": "respond-async"})
    assert accepted.json()["jobs"] == accepted.json()["data"]
    region = (await client.get(f"{image['url']}/regions/0")).json()
    assert (region["score"], region["polygon"], region["mask"]) == (
        region["match"],
        region["polygons"],
        region["mask_b64"],
    )


@pytest.mark.parametrize(
    ("path", "older", "newer"),
    [
        ("/v1/images", {"before": "next"}, {"after": "next"}),
        ("/v1/images", {"since": "time"}, {"created_after": "time"}),
        ("/v1/images", {"until": "time"}, {"created_before": "time"}),
        ("/v1/jobs", {"before": "next"}, {"after": "next"}),
    ],
)
async def test_parameters_are_the_same_by_both_names(
    client: httpx.AsyncClient, image: Json, path: str, older: Json, newer: Json
):
    first = (await client.get(path, params={"limit": 1})).json()
    values = {"next": first["next"], "time": image["created_at"]}

    async def listed(names: Json) -> httpx.Response:
        return await client.get(path, params={name: values[kind] for name, kind in names.items()})

    old, new = await listed(older), await listed(newer)
    assert old.json() == new.json()
    assert len(new.json()["data"]) == 1
    assert ("deprecation" in old.headers, "deprecation" in new.headers) == (True, False)


async def test_both_names_of_a_cursor_at_once_are_refused(client: httpx.AsyncClient, image: Json):
    both = {"before": image["image_id"], "after": image["image_id"]}
    assert is_problem(await client.get("/v1/images", params=both), 422, "invalid_request")


async def test_the_size_of_the_content_is_the_same_by_both_names(client: httpx.AsyncClient, image: Json):
    old, new = [
        await client.get(image["content_url"], params={"format": "webp", name: 32}) for name in ("size", "max_side")
    ]
    assert old.content == new.content


def test_the_document_marks_what_is_deprecated():
    deprecated = {
        f"{method} {path}"
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
        if operation.get("deprecated")
    }
    assert deprecated >= {
        "get /v1/images/{image_id}/analysis",
        "get /v1/images/{image_id}/segments",
        "post /v1/images/{image_id}/segments",
        "get /v1/images/{image_id}/spotlights/{region_id}.png",
    }
