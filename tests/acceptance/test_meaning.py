"""Analyses of generated images are correct: the miniature models agree with each other.

These prompts were chosen among the correct ones: `python -m training.evaluate pipeline` measures their share.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import pairwise

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from pipeline.imaging.masks import Mask
from pipeline.records import Pixels
from testing.service_process import RunningService
from training.scenes.objects.kinds import COLOURS

HUE_TOLERANCE = 13  # of OpenCV's 180
MIN_SATURATION = 80  # of 255
UNLIKE_WHITE = 90  # levels by which a channel is darker than a white background; shadows are less
MIN_IOU = 0.75
ON_WHITE = " on a white background"


@dataclass(frozen=True)
class Thing:
    """A thing that must be in an image, in one chromatic colour unless `is_mixed`."""

    kind: str  # a label
    colour: str
    is_mixed: bool = False  # it has parts of other colours, and stands alone on white

    def find(self, pixels: Pixels) -> Mask:
        """Return its mask, by colour only."""
        return unlike_white(pixels) if self.is_mixed else in_colour(pixels, self.colour)


@dataclass(frozen=True)
class Case:
    """A prompt, its seed, and all things that must be in the image."""

    prompt: str
    seed: int
    things: tuple[Thing, ...]


def one(prompt: str, seed: int, kind: str, colour: str) -> Case:
    return Case(prompt, seed, (Thing(kind, colour),))


def mixed(prompt: str, seed: int, kind: str, colour: str) -> Case:
    return Case(prompt + ON_WHITE, seed, (Thing(kind, colour, is_mixed=True),))


def two(prompt: str, seed: int, first: tuple[str, str], second: tuple[str, str]) -> Case:
    return Case(prompt, seed, (Thing(*first), Thing(*second)))


CASES = (
    one("a red apple", 0, "apple", "red"),
    mixed("a blue lamp", 0, "lamp", "blue"),
    two("a yellow pear in a blue bowl", 0, ("pear", "yellow"), ("bowl", "blue")),
    one("yellow pear on a white background", 1, "pear", "yellow"),
    mixed("a blue bottle", 0, "bottle", "blue"),
    one("a blue cup", 0, "cup", "blue"),
    two("red apple in blue plate", 0, ("apple", "red"), ("plate", "blue")),
    one("a pink plate", 0, "plate", "pink"),
    mixed("a green bus", 0, "bus", "green"),
    one("blue cloud on a white background", 1, "cloud", "blue"),
    two("a red apple in a blue bowl", 0, ("apple", "red"), ("bowl", "blue")),
    one("green apple on a white background", 1, "apple", "green"),
    mixed("a red pickup truck", 0, "pickup_truck", "red"),
    one("a red pear", 0, "pear", "red"),
    two("a blue cup next to a red couch", 0, ("cup", "blue"), ("couch", "red")),
    one("orange cup on a white background", 1, "cup", "orange"),
    mixed("a blue television", 0, "television", "blue"),
    one("a yellow plate", 0, "plate", "yellow"),
    two("a yellow plate and a blue cup", 0, ("plate", "yellow"), ("cup", "blue")),
    one("purple apple on a white background", 1, "apple", "purple"),
    mixed("a red tractor", 0, "tractor", "red"),
    one("a green couch", 0, "couch", "green"),
    two("a yellow pear in a red plate", 0, ("pear", "yellow"), ("plate", "red")),
    one("red plate on a white background", 1, "plate", "red"),
)


@pytest.fixture(scope="module")
def client(service: RunningService):
    with service.client() as client:
        yield client


@pytest.fixture(scope="module")
def images(client: httpx.Client) -> dict[Case, str]:
    """The image id of each case."""
    ids = {}
    for case in CASES:
        answer = client.post("/generate", json={"prompt": case.prompt, "seed": case.seed})
        assert answer.status_code == 200, answer.text
        ids[case] = answer.json()["image_id"]
    return ids


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.prompt)
def test_the_prompt_s_things_are_labelled_segmented_and_found_by_colour(
    case: Case, client: httpx.Client, images: dict[Case, str]
):
    assert misses(client, images[case], case) == {}


@pytest.mark.parametrize(("case", "other"), list(pairwise(CASES)), ids=lambda case: case.prompt)
def test_the_image_of_another_prompt_does_not_match(
    case: Case, other: Case, client: httpx.Client, images: dict[Case, str]
):
    found = misses(client, images[other], case)
    assert found.keys() >= ({"mask"} if kinds(case) == kinds(other) else {"names"})


def kinds(case: Case) -> list[str]:
    return sorted(thing.kind for thing in case.things)


def misses(client: httpx.Client, image_id: str, case: Case) -> dict[str, object]:
    """Compare all analyses of an image with a case; return the deviations."""

    def call(path: str, **parameters: str) -> dict:
        return client.post(path, json={"image_id": image_id, **parameters}).raise_for_status().json()

    labels = [score["class"] for score in call("/analyze")["clip_scores"]]
    content = client.get(f"/v1/images/{image_id}/content").raise_for_status().content
    pixels = np.array(Image.open(io.BytesIO(content)))
    regions = call("/segment")["segmented_regions"]
    names = [region["clip_analysis"][0]["class"] for region in regions]
    assert len(call("/visualize")["individual_spotlights"]) == len(regions)

    found: dict[str, object] = {}
    if sorted(name for name in names if name != "background") != kinds(case):
        found["names"] = names
    if not set(kinds(case)) <= set(labels):
        found["classes"] = labels
    for thing in [thing for thing in case.things if thing.kind in names]:
        painted = thing.find(pixels)
        own = regions[names.index(thing.kind)]
        if (overlap := iou(inside(own["polygon"], painted.shape), painted)) < MIN_IOU:
            found["mask"] = (thing, overlap)
        matches = call("/probe", prompt=thing.colour)["regional_matches"]
        scores = {match["region_id"]: float(match["similarity_to_prompt"].rstrip("%")) for match in matches}
        assert len(scores) == len(regions)
        others = [score for region, score in scores.items() if region != own["region_id"]]
        if scores[own["region_id"]] <= max(others, default=-1.0):
            found["colour"] = (thing, scores)
    return found


def unlike_white(pixels: Pixels) -> Mask:
    """Return the mask of pixels that are neither white nor shadow."""
    mask: Mask = pixels.min(axis=2) < 255 - UNLIKE_WHITE
    return mask


def in_colour(pixels: Pixels, colour: str) -> Mask:
    """Return the mask of saturated pixels with a colour's hue."""
    hue, saturation, _ = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))
    wanted = int(cv2.cvtColor(np.array([[COLOURS[colour]]], np.uint8), cv2.COLOR_RGB2HSV)[0, 0, 0])
    off = np.abs(hue.astype(int) - wanted)
    mask: Mask = (np.minimum(off, 180 - off) <= HUE_TOLERANCE) & (saturation >= MIN_SATURATION)
    return mask


def inside(polygon: list[list[list[int]]], size: tuple[int, ...]) -> Mask:
    """Return the mask inside the contours of a polygon."""
    filled = np.zeros(size, np.uint8)
    cv2.fillPoly(filled, [np.array(contour, np.int32) for contour in polygon], 1)
    return filled > 0


def iou(left: Mask, right: Mask) -> float:
    """Return the intersection over union."""
    return float((left & right).sum() / max(1, (left | right).sum()))
