"""Images as resources of a real service: exports for other tools, text search, meaningful edits."""

from __future__ import annotations

import io
from collections.abc import Iterator

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from pipeline.imaging.codecs import encode_png
from testing.service_process import RunningService
from tests.acceptance.test_meaning import in_colour, iou
from training.scenes.objects.kinds import KINDS
from training.scenes.render import draw_scene

SIDE = 256
SCENES = 12  # `python -m training.evaluate` measures 300
FIRST = 900_000  # seed of scenes outside training and calibration
FOUND_IOU = 0.5
POINTED = 6  # scenes of one thing


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[httpx.Client]:
    with service.client(headers={"X-Session-ID": "resources"}) as client:
        yield client


def pixels_of(client: httpx.Client, image_id: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(client.get(f"/v1/images/{image_id}/content").raise_for_status().content)))


def created(client: httpx.Client, path: str = "/v1/images", **body: object) -> dict:
    answer = client.post(path, json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["images"][0]


def uploaded(client: httpx.Client, pixels: np.ndarray) -> str:
    answer = client.post("/v1/images/upload", content=encode_png(pixels), headers={"Content-Type": "image/png"})
    return answer.raise_for_status().headers["Location"]


def test_pycocotools_loads_the_export_with_equal_values(client: httpx.Client, tmp_path, capsys):
    url = f"/v1/images/{created(client, prompt='a red apple', seed=3)['image_id']}"
    file = tmp_path / "regions.json"
    file.write_bytes(client.get(f"{url}/segments", params={"format": "coco"}).raise_for_status().content)
    loaded = COCO(str(file))
    regions = client.get(f"{url}/segments", params={"format": "rle"}).json()["segments"]

    annotations = loaded.loadAnns(loaded.getAnnIds())
    assert len(annotations) == len(regions) > 0
    for annotation, region in zip(annotations, regions, strict=True):
        mask = coco.decode(region["rle"])
        assert np.array_equal(loaded.annToMask(annotation), mask)
        assert annotation["area"] == region["area"] == mask.sum() == coco.area(region["rle"])
        x0, y0, x1, y1 = region["box"]
        assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0] == coco.toBbox(region["rle"]).tolist()
        assert loaded.loadCats(annotation["category_id"])[0]["name"] == region["labels"][0]["label"]


@pytest.mark.parametrize(
    ("prompt", "concept", "before", "after"),
    [
        ("a red apple on a white background", "apple", "red", "green"),
        ("a blue cup", "cup", "blue", "red"),
    ],
)
def test_an_edit_by_concept_changes_only_the_thing_s_colour(
    client: httpx.Client, prompt: str, concept: str, before: str, after: str
):
    made = created(client, prompt=prompt, seed=1)
    url = f"/v1/images/{made['image_id']}"
    found = client.post(f"{url}/segments", json={"text": concept, "format": "rle"}).json()["segments"]
    region = np.logical_or.reduce([coco.decode(segment["rle"]) > 0 for segment in found])
    edit = created(client, f"{url}/edits", prompt=f"a {after} {concept}", concept=concept, seed=7)
    old, new = pixels_of(client, made["image_id"]), pixels_of(client, edit["image_id"])

    may_change = coco.decode(edit["request"]["source"]["mask"]) > 0
    assert np.array_equal(new[~may_change], old[~may_change])
    assert (may_change & ~region).sum() < 0.3 * region.sum()  # only its rim
    assert in_colour(old, before)[region].mean() > 0.5
    assert in_colour(new, before)[region].mean() < 0.1
    assert in_colour(new, after)[region].mean() > 0.4


def test_a_text_finds_the_named_one_of_two_things_and_no_absent_one(client: httpx.Client):
    found, abstained = [], []
    for number in range(SCENES):
        scene = draw_scene(FIRST + number, SIDE, split="test", num_things=2)
        url = uploaded(client, scene.pixels)
        thing = scene.things[number % 2]
        answer = client.post(f"{url}/segments", json={"text": word(thing.kind), "format": "rle"}).json()["segments"]
        best = coco.decode(answer[0]["rle"]) > 0 if answer else np.zeros((SIDE, SIDE), np.bool_)
        found.append(iou(best, thing.mask) >= FOUND_IOU)
        there = {thing.kind for thing in scene.things}
        absent = next(kind for kind in sorted(KINDS)[number:] if kind not in there)
        abstained.append(not client.post(f"{url}/segments", json={"text": word(absent)}).json()["segments"])

    print(f"found {sum(found)} of {SCENES}, abstained {sum(abstained)} of {SCENES}")
    assert sum(found) >= 0.75 * SCENES
    assert sum(abstained) >= 0.75 * SCENES


def word(kind: str) -> str:
    return kind.replace("_", " ")


def test_a_point_segments_the_thing_it_lies_on(client: httpx.Client):
    cut_out = []
    for number in range(POINTED):
        scene = draw_scene(FIRST + number, SIDE, split="test", num_things=1)
        (thing,) = scene.things
        depth = cv2.distanceTransform(thing.mask.astype(np.uint8), cv2.DIST_L2, 3)
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        body = {"points": [{"x": float(x), "y": float(y)}], "format": "rle"}
        (segment,) = client.post(f"{uploaded(client, scene.pixels)}/segments", json=body).json()["segments"]
        cut_out.append(iou(coco.decode(segment["rle"]) > 0, thing.mask) >= FOUND_IOU)
        assert segment["labels"]

    print(f"cut out {sum(cut_out)} of {POINTED}")
    assert sum(cut_out) >= 0.6 * POINTED
