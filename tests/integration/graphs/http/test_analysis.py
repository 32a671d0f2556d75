"""Analysis over HTTP with fakes: regions in every format, labels, concepts, renderings."""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from pipeline.imaging.masks import decode_mask
from pipeline.records import FIRST_SELECTED_REGION
from pipeline.settings import ModelSource, Sam3Settings, ServiceSettings
from testing.harness import Bench, make_bench, working
from tests.integration.clients import client_of, is_problem

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(bench) as client:
        yield client


@pytest.fixture
async def url(bench: Bench) -> str:
    """The URL of an image with two regions: a disc about (19, 19), an apple, and its surroundings, a plate."""
    return f"/v1/images/{(await bench.image(seed=3)).image_id}"


async def masks_of(bench: Bench, url: str) -> list[np.ndarray]:
    record = await bench.services.images.find(url.rpartition("/")[2], owner="public", session="")
    found = await bench.segment(record, "r")
    return [decode_mask(rle, found.size) for rle in found.rles]


async def test_every_format_of_a_region_has_the_same_mask(bench: Bench, client: httpx.AsyncClient, url: str):
    formats = {
        format_: (await client.get(f"{url}/segments", params={"format": format_})).json()["segments"]
        for format_ in ("polygons", "rle", "png")
    }
    masks = await masks_of(bench, url)

    for number, mask in enumerate(masks):
        by_rle, by_png, by_polygon = formats["rle"][number], formats["png"][number], formats["polygons"][number]
        assert np.array_equal(coco.decode(by_rle["rle"]), mask)
        decoded = Image.open(io.BytesIO(base64.b64decode(by_png["mask"])))
        assert decoded.mode == "1"
        assert np.array_equal(np.array(decoded), mask)
        assert by_polygon["area"] == mask.sum()
        assert all(len(contour) >= 3 for contour in by_polygon["polygon"])
        assert by_polygon["labels"][0]["label"] == ("apple", "plate")[number]
        assert by_polygon["rle"] is by_polygon["mask"] is by_rle["polygon"] is by_polygon["score"] is None


async def test_pycocotools_loads_the_coco_document(bench: Bench, client: httpx.AsyncClient, url: str, tmp_path, capsys):
    file = tmp_path / "coco.json"
    file.write_bytes((await client.get(f"{url}/segments", params={"format": "coco"})).content)
    loaded = COCO(str(file))
    capsys.readouterr()  # drop its output
    masks = await masks_of(bench, url)

    annotations = loaded.loadAnns(loaded.getAnnIds(imgIds=[1]))
    assert len(annotations) == len(masks) == 2
    for annotation, mask in zip(annotations, masks, strict=True):
        assert np.array_equal(loaded.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
    assert [loaded.loadCats(a["category_id"])[0]["name"] for a in annotations] == ["apple", "plate"]
    assert loaded.loadImgs(1)[0]["width"] == 64


async def test_points_and_boxes_segment_the_region_they_mark(client: httpx.AsyncClient, url: str):
    inside = await client.post(f"{url}/segments", json={"points": [{"x": 19, "y": 19}], "format": "rle"})
    outside = await client.post(f"{url}/segments", json={"points": [{"x": 60, "y": 60}], "box": [0, 0, 64, 64]})

    (apple,), (rest,) = inside.json()["segments"], outside.json()["segments"]
    assert coco.decode(apple["rle"])[19, 19] == 1
    assert apple["labels"]
    assert rest["area"] + apple["area"] == 64 * 64


async def test_regions_by_points_have_ids_that_name_no_other_region(client: httpx.AsyncClient, url: str):
    segmented = (await client.get(f"{url}/segments", params={"format": "rle"})).json()["segments"]
    at = {"points": [{"x": 60, "y": 60}], "format": "rle"}  # in the region with the id 1
    first, second = [(await client.post(f"{url}/segments", json=at)).json()["segments"][0] for _ in range(2)]
    boxed = (await client.post(f"{url}/segments", json=at | {"box": [0, 0, 64, 64]})).json()["segments"][0]
    alone = (await client.get(f"{url}/regions/{first['region_id']}")).json()
    coco_document = (await client.post(f"{url}/segments", json=at | {"format": "coco"})).json()

    assert first["region_id"] == second["region_id"] == FIRST_SELECTED_REGION
    assert boxed["region_id"] == FIRST_SELECTED_REGION + 1
    assert first["rle"] == alone["rle"] == segmented[1]["rle"]
    assert [annotation["id"] for annotation in coco_document["annotations"]] == [FIRST_SELECTED_REGION + 1]
    for path in (f"{url}/regions/{FIRST_SELECTED_REGION + 2}", f"{url}/spotlights/{FIRST_SELECTED_REGION + 2}.png"):
        assert is_problem(await client.get(path), 404, "region_not_found")


async def test_a_region_by_points_has_a_spotlight(client: httpx.AsyncClient, url: str):
    await client.get(f"{url}/segments")
    at = {"points": [{"x": 60, "y": 60}]}
    region_id = (await client.post(f"{url}/segments", json=at)).json()["segments"][0]["region_id"]
    own = await client.get(f"{url}/spotlights/{region_id}.png")
    same = await client.get(f"{url}/spotlights/1.png")
    assert (own.status_code, own.headers["content-type"]) == (200, "image/png")
    assert own.content == same.content


async def test_a_text_finds_matching_regions_or_none(bench: Bench, client: httpx.AsyncClient, url: str):
    async def matching(texts):
        return np.eye(1, 8, dtype=np.float32).repeat(len(texts), 0)  # the first region's own vector

    async def unrelated(texts):
        return -np.eye(1, 8, dtype=np.float32).repeat(len(texts), 0)

    bench.workers.encode_texts = matching
    found = (await client.post(f"{url}/segments", json={"text": "apple"})).json()["segments"]
    bench.workers.encode_texts = unrelated
    nothing = (await client.post(f"{url}/segments", json={"text": "castle"})).json()["segments"]

    assert [(s["region_id"], s["labels"][0]["label"]) for s in found] == [(0, "apple")]
    assert 0 < found[0]["score"] <= 1
    assert nothing == []


async def test_a_profile_with_sam3_finds_concepts_with_it(tmp_path):
    sam3 = Sam3Settings(model=ModelSource(source="/weights/sam3.pt"))
    bench = make_bench(tmp_path, profile=ServiceSettings().load_profile().model_copy(update={"sam3": sam3}))
    async with working(bench), client_of(bench) as client:
        url = f"/v1/images/{(await bench.image(seed=3)).image_id}"
        found = (await client.post(f"{url}/segments", json={"text": "apple"})).json()["segments"]
        nothing = (await client.post(f"{url}/segments", json={"text": "castle"})).json()["segments"]
        again = (await client.get(f"{url}/regions/{found[0]['region_id']}")).json()
        edited = await client.post(f"{url}/edits", json={"prompt": "pear", "concept": "apple"})
        region = {"prompt": "pear", "region": found[0]["region_id"]}
        by_region = (await client.post(f"{url}/edits", json=region)).json()
        missing = await client.post(f"{url}/edits", json={"prompt": "pear", "concept": "castle"})

    assert [(s["region_id"], s["labels"][0]["label"]) for s in found] == [(FIRST_SELECTED_REGION, "apple")]
    assert found[0]["score"] == pytest.approx(0.99)
    assert {name: again[name] for name in found[0] if name not in ("score", "rle", "mask")} == {
        name: value for name, value in found[0].items() if name not in ("score", "rle", "mask")
    }
    assert by_region["images"][0]["request"]["source"] == edited.json()["images"][0]["request"]["source"]
    assert nothing == []
    assert edited.status_code == 201
    assert is_problem(missing, 422, "concept_not_found")
    assert bench.workers.calls["segment"] == 0


async def test_labels_are_those_of_the_profile_or_of_the_request(bench: Bench, client: httpx.AsyncClient, url: str):
    own = (await client.get(f"{url}/analysis", params={"labels": "cat, dog,cat"})).json()
    default = (await client.get(f"{url}/analysis")).json()

    assert sorted(label["label"] for label in own["labels"]) == ["cat", "dog"]
    assert sum(label["confidence"] for label in own["labels"]) == pytest.approx(1, abs=0.01)
    assert len(own["regions"]) == 2
    assert len(default["labels"]) == len(bench.services.profile.clip.labelling.names)
    assert bench.workers.calls["describe"] + bench.workers.calls["describe_regions"] == 2  # each computed once


async def test_concepts_are_compared_with_the_image_and_each_region(client: httpx.AsyncClient, url: str):
    response = (await client.post(f"{url}/probe", json={"concepts": ["red", "metal"]})).json()

    assert [m["concept"] for m in response["matches"]] == ["red", "metal"]
    assert response["matches"][0]["cosine"] == pytest.approx(0.125)
    assert response["matches"][0]["match"] == pytest.approx(0.125 / 0.45, abs=5e-5)
    for row in (response, *response["regions"]):
        assert sum(m["share"] for m in row["matches"]) + row["none_of_these"] == pytest.approx(1, abs=0.01)
    assert [region["label"] for region in response["regions"]] == ["apple", "plate"]


async def test_a_region_and_its_renderings(client: httpx.AsyncClient, url: str):
    region = (await client.get(f"{url}/regions/1")).json()
    overlay = await client.get(f"{url}/overlay.png")
    spotlight = await client.get(f"{url}/spotlights/1.png")
    known = await client.get(f"{url}/overlay.png", headers={"If-None-Match": overlay.headers["ETag"]})

    assert (region["region_id"], region["labels"][0]["label"]) == (1, "plate")
    assert region["polygon"]
    assert region["rle"]
    assert region["mask"]
    for rendering in (overlay, spotlight):
        assert Image.open(io.BytesIO(rendering.content)).size == (64, 64)
        assert "immutable" not in rendering.headers["Cache-Control"]  # another model may render another
    assert (known.status_code, known.content) == (304, b"")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "word"),
    [
        ("GET", "/regions/2", None, 404, "2"),
        ("GET", "/regions/-1", None, 404, "-1"),
        ("GET", "/spotlights/7.png", None, 404, "7"),
        ("GET", "/spotlights/x.png", None, 422, "region"),
        ("GET", "/segments?format=svg", None, 422, "format"),
        ("GET", "/analysis?labels=cat&templates=a photo", None, 422, "{label}"),
        ("GET", f"/analysis?labels={','.join(map(str, range(300)))}", None, 422, "256"),
        ("GET", f"/analysis?labels={'x' * 101}", None, 422, "100"),
        ("GET", f"/analysis?{'&'.join(['templates={label}'] * 20)}", None, 422, "256"),
        ("POST", "/segments", {}, 422, "text"),
        ("POST", "/segments", {"text": "apple", "box": [0, 0, 9, 9]}, 422, "text"),
        ("POST", "/segments", {"box": [9, 0, 9, 9]}, 422, "box"),
        ("POST", "/segments", {"points": [{"x": 65, "y": 1}]}, 422, "64 x 64"),
        ("POST", "/segments", {"points": [{"x": -1, "y": 1}]}, 422, "points"),
        ("POST", "/segments", {"points": [{"x": 1, "y": 1}] * 65}, 422, "points"),
        ("POST", "/probe", {"concepts": []}, 422, "concepts"),
        ("POST", "/probe", {"concepts": [" "]}, 422, "concepts"),
    ],
)
async def test_invalid_requests_return_a_problem(
    client: httpx.AsyncClient, url: str, method: str, path: str, body: dict | None, status: int, word: str
):
    response = await client.request(method, f"{url}{path}", json=body)
    assert is_problem(response, status, response.json()["code"])
    assert word in response.json()["detail"]


@pytest.mark.parametrize("path", ["/analysis", "/segments", "/regions/0", "/overlay.png", "/spotlights/0.png"])
async def test_an_unknown_image_is_not_found(client: httpx.AsyncClient, path: str):
    assert is_problem(await client.get(f"/v1/images/{uuid.uuid4()}{path}"), 404, "image_not_found")
