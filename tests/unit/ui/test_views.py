from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from ai_pipeline_client import (
    ConceptMatch,
    Concepts,
    GenerationRequest,
    Image,
    Label,
    RegionConcepts,
    Segment,
    Spotlight,
)
from ui import views

SQUARE = (((2, 1), (6, 1), (6, 5), (2, 5)),)


def a_match(match: float) -> tuple[ConceptMatch]:
    return (ConceptMatch(concept="metal", cosine=0.2, match=match, share=0.5),)


def test_masks_cover_their_polygons_and_are_named_as_in_the_legacy_dashboard():
    ((mask, label),) = views.masks([Spotlight(region_id=0, label="apple", polygon=SQUARE, png=b"")], (10, 8))

    assert label == "ID: 0 (apple)"
    assert mask.shape == (8, 10)
    covered = np.argwhere(mask > 0)
    assert covered.min(0).tolist() == [1, 2]
    assert covered.max(0).tolist() == [5, 6]


def test_a_region_without_an_outline_is_an_empty_mask():
    ((mask, _),) = views.masks([Spotlight(region_id=0, label="apple", polygon=(), png=b"")], (10, 8))
    assert not mask.any()


def test_a_region_s_row_has_its_label_and_position():
    labels = (Label(label="cup", confidence=0.1251), Label(label="apple", confidence=0.1))
    segment = Segment(region_id=3, box=(2, 1, 7, 6), area=25, predicted_iou=0.987, stability=0.9, labels=labels)
    assert views.segments([segment]).to_numpy().tolist() == [[3, "cup", "12.51%", "0.99", "5 × 5 at 2, 1"]]


def test_matches_begin_with_the_whole_image():
    region = RegionConcepts(region_id=3, label="cup", matches=a_match(0), none_of_these=0.5)
    found = Concepts(image_id="i", matches=a_match(0.125), none_of_these=0.5, regions=(region,))

    assert views.matches(found).to_numpy().tolist() == [["whole image", 12.5], ["ID: 3 (cup)", 0.0]]


def test_user_input_is_escaped():
    request = GenerationRequest(
        prompt="<b>x</b>", negative_prompt="<i>", width=8, height=8, seed=1, steps=2, guidance=3, scheduler="ddim"
    )
    image = Image(image_id="i", created_at=datetime.now(UTC), width=8, height=8, digest="", request=request)

    shown = views.facts(image)

    assert "<b>x</b>" not in shown
    assert "<i>" not in shown
    assert "&lt;b&gt;x" in shown


def test_every_label_has_its_own_colour():
    colours = views.colours([f"ID: {i} (apple)" for i in range(40)])
    assert len(set(colours.values())) == 40
