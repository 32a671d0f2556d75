from __future__ import annotations

import numpy as np

from ui import views

SQUARE = [[[2, 1], [6, 1], [6, 5], [2, 5]]]


def test_masks_cover_their_polygons_and_are_named_as_the_origin_does():
    ((mask, label),) = views.masks([{"region_id": 0, "top_class": "apple", "polygon": SQUARE}], (10, 8))

    assert label == "ID: 0 (apple)"
    assert mask.shape == (8, 10)
    covered = np.argwhere(mask > 0)
    assert covered.min(0).tolist() == [1, 2]
    assert covered.max(0).tolist() == [5, 6]


def test_a_region_without_an_outline_is_an_empty_mask_and_an_empty_box():
    ((mask, _),) = views.masks([{"region_id": 0, "top_class": "apple", "polygon": []}], (10, 8))
    region = {"region_id": 0, "sam_confidence": "0.99", "polygon": []}
    table = views.segments({"segmented_regions": [region | {"clip_analysis": [{"class": "a", "confidence": "1.00%"}]}]})

    assert not mask.any()
    assert table["box"].tolist() == ["0 × 0 at 0, 0"]


def test_matches_begin_with_the_whole_image():
    probe = {
        "global_match_score": "12.50%",
        "regional_matches": [{"region_id": 3, "class_label": "cup", "similarity_to_prompt": "0.00%"}],
    }

    assert views.matches(probe).to_numpy().tolist() == [["whole image", 12.5], ["ID: 3 (cup)", 0.0]]


def test_what_people_wrote_is_text_and_never_markup():
    request = {
        "prompt": "<b>x</b>",
        "negative_prompt": "<i>",
        "seed": 1,
        "steps": 2,
        "guidance": 3,
        "scheduler": "ddim",
    }

    shown = views.facts({"width": 8, "height": 8, "request": request})

    assert "<b>x</b>" not in shown
    assert "<i>" not in shown
    assert "&lt;b&gt;x" in shown


def test_every_label_has_a_colour_of_its_own():
    colours = views.colours([f"ID: {i} (apple)" for i in range(40)])
    assert len(set(colours.values())) == 40
