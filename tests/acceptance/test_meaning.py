"""What the service says about its images is true: the miniature models understand each other."""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import pairwise

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from pipeline.records import Pixels
from pipeline.regions import Mask
from tests.service_process import RunningService
from training.things import COLOURS

HUE_TOLERANCE = 13  # of OpenCV's 180
MIN_SATURATION = 80  # of 255
MIN_IOU = 0.75


@dataclass(frozen=True)
class Case:
    """A prompt, its seed, and the thing that must be in the image."""

    prompt: str
    seed: int
    kind: str  # as labels spell it
    colour: str  # one with a hue of its own


CASES = (
    Case("a red apple", 0, "apple", "red"),
    Case("yellow pear on a white background", 1, "pear", "yellow"),
    Case("a blue cup", 0, "cup", "blue"),
    Case("a pink plate", 0, "plate", "pink"),
    Case("blue cloud on a white background", 1, "cloud", "blue"),
    Case("green apple on a white background", 1, "apple", "green"),
    Case("a red pear", 0, "pear", "red"),
    Case("orange cup on a white background", 1, "cup", "orange"),
    Case("a yellow plate", 0, "plate", "yellow"),
    Case("a pink cloud", 0, "cloud", "pink"),
    Case("purple apple on a white background", 1, "apple", "purple"),
    Case("a pink pear", 0, "pear", "pink"),
    Case("red cup on a white background", 1, "cup", "red"),
    Case("red plate on a white background", 1, "plate", "red"),
    Case("a red castle", 0, "castle", "red"),
)


@pytest.fixture(scope="module")
def client(service: RunningService):
    with service.client() as client:
        yield client


@pytest.fixture(scope="module")
def images(client: httpx.Client) -> dict[Case, str]:
    """The id of each case's image."""
    ids = {}
    for case in CASES:
        answer = client.post("/generate", json={"prompt": case.prompt, "seed": case.seed})
        assert answer.status_code == 200, answer.text
        ids[case] = answer.json()["image_id"]
    return ids


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.prompt)
def test_what_a_prompt_asks_for_is_named_cut_out_and_found_by_its_colour(
    case: Case, client: httpx.Client, images: dict[Case, str]
):
    check_meaning(client, images[case], case)


@pytest.mark.parametrize(("case", "other"), list(pairwise(CASES)), ids=lambda case: case.prompt)
def test_the_image_of_another_prompt_is_no_match(
    case: Case, other: Case, client: httpx.Client, images: dict[Case, str]
):
    with pytest.raises(AssertionError):
        check_meaning(client, images[other], case)


def check_meaning(client: httpx.Client, image_id: str, case: Case) -> None:
    """Assert that the image shows the case's thing in its colour, by all that the service says of it."""

    def call(path: str, **parameters: str) -> dict:
        # No assertion: with another prompt's image what must fail is the meaning, not the service.
        return client.post(path, json={"image_id": image_id, **parameters}).raise_for_status().json()

    labels = [score["class"] for score in call("/analyze")["clip_scores"]]
    assert case.kind in labels, f"the five best classes are {labels}"

    content = client.get(f"/v1/images/{image_id}/content").raise_for_status().content
    painted = in_colour(np.array(Image.open(io.BytesIO(content))), case.colour)
    regions = call("/segment")["segmented_regions"]
    agreement = {
        region["region_id"]: iou(inside(region["polygon"], painted.shape), painted)
        for region in regions
        if region["clip_analysis"][0]["class"] == case.kind
    }
    assert agreement, f"no region is called {case.kind}"
    best = max(agreement, key=agreement.__getitem__)
    assert agreement[best] >= MIN_IOU

    matches = call("/probe", prompt=case.colour)["regional_matches"]
    scores = {match["region_id"]: float(match["similarity_to_prompt"].rstrip("%")) for match in matches}
    assert len(scores) == len(regions)
    others = [score for region, score in scores.items() if region != best]
    assert scores[best] > max(others, default=-1.0), f"{case.colour}: {scores}, expected {best}"

    assert len(call("/visualize")["individual_spotlights"]) == len(regions)


def in_colour(pixels: Pixels, colour: str) -> Mask:
    """Where an image has a colour's hue, and enough of it."""
    hue, saturation, _ = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))
    wanted = int(cv2.cvtColor(np.array([[COLOURS[colour]]], np.uint8), cv2.COLOR_RGB2HSV)[0, 0, 0])
    off = np.abs(hue.astype(int) - wanted)
    mask: Mask = (np.minimum(off, 180 - off) <= HUE_TOLERANCE) & (saturation >= MIN_SATURATION)
    return mask


def inside(polygon: list[list[list[int]]], size: tuple[int, ...]) -> Mask:
    """The pixels that the contours of a polygon enclose."""
    filled = np.zeros(size, np.uint8)
    cv2.fillPoly(filled, [np.array(contour, np.int32) for contour in polygon], 1)
    return filled > 0


def iou(left: Mask, right: Mask) -> float:
    """Intersection over union."""
    return float((left & right).sum() / max(1, (left | right).sum()))
