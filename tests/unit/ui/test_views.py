from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from pycocotools import mask as coco

from ai_pipeline_client import (
    ConceptMatch,
    Concepts,
    GenerationRequest,
    Image,
    Label,
    RegionConcepts,
    RegionFields,
    RunLengths,
)
from ui import views

LABELS = (Label(label="cup", confidence=0.1251), Label(label="apple", confidence=0.1))


def a_region(counts: str) -> RegionFields:
    return RegionFields(
        image_id="i",
        region_id=3,
        box=(2, 1, 7, 6),
        area=25,
        predicted_iou=0.987,
        stability=0.9,
        label="cup",
        confidence=0.1251,
        labels=LABELS,
        rle=RunLengths(size=(8, 10), counts=counts),
    )


def a_match(match: float) -> tuple[ConceptMatch]:
    return (ConceptMatch(concept="metal", cosine=0.2, match=match, share=0.5),)


def test_masks_are_those_of_the_regions_and_named_as_in_the_legacy_dashboard():
    square = np.zeros((8, 10), np.uint8, order="F")
    square[1:6, 2:7] = 1
    ((mask, label),) = views.masks([a_region(coco.encode(square)["counts"].decode())])

    assert label == "ID: 3 (cup)"
    assert np.array_equal(mask > 0, square)


def test_a_region_s_row_has_its_label_and_position():
    assert views.regions([a_region("")]).to_numpy().tolist() == [[3, "cup", "12.51%", "0.99", "5 × 5 at 2, 1"]]


def test_matches_begin_with_the_whole_image():
    region = RegionConcepts(region_id=3, label="cup", matches=a_match(0), none_of_these=0.5)
    found = Concepts(image_id="i", matches=a_match(0.125), none_of_these=0.5, regions=(region,))

    assert views.matches(found).to_numpy().tolist() == [["whole image", 12.5], ["ID: 3 (cup)", 0.0]]


def test_user_input_is_escaped():
    request = GenerationRequest(
        prompt="<b>x</b>", negative_prompt="<i>", width=8, height=8, seed=1, steps=2, guidance=3, scheduler="ddim"
    )
    image = Image(image_id="i", created_at=datetime.now(UTC), width=8, height=8, digest="", parameters=request)

    shown = views.facts(image)

    assert "<b>x</b>" not in shown
    assert "<i>" not in shown
    assert "&lt;b&gt;x" in shown


def test_every_label_has_its_own_colour():
    colours = views.colours([f"ID: {i} (apple)" for i in range(40)])
    assert len(set(colours.values())) == 40
