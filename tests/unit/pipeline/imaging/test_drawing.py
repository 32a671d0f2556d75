from __future__ import annotations

import numpy as np
import pytest

from pipeline.imaging.codecs import decode_png
from pipeline.imaging.drawing import draw_overlay, render
from pipeline.records import Segmentation
from pipeline.settings import DrawingSettings
from tests.unit.shapes import noise, rectangle, segmentation_of

SIZE = (96, 128)
GREEN = (0, 255, 0)
MASKS = [rectangle(SIZE, 10, 10, 100, 80), rectangle(SIZE, 50, 40, 120, 90)]


@pytest.fixture
def segmentation() -> Segmentation:
    return segmentation_of(SIZE, *MASKS)


def test_there_is_one_overlay_and_a_spotlight_per_region_of_the_image_s_size(segmentation):
    drawings = render(noise(*SIZE), segmentation, DrawingSettings())
    assert len(drawings.spotlights) == 2
    for png in (drawings.overlay, *drawings.spotlights):
        assert decode_png(png).shape == (*SIZE, 3)


def test_a_spotlight_keeps_its_region_and_dims_the_rest_to_the_profile_s_share(segmentation):
    pixels = noise(*SIZE)
    for style in (DrawingSettings(), DrawingSettings(dim=0.75)):
        for png, mask in zip(render(pixels, segmentation, style).spotlights, MASKS, strict=True):
            spotlight = decode_png(png)
            assert np.array_equal(spotlight[mask], pixels[mask])
            assert spotlight[~mask] == pytest.approx(style.dim * pixels[~mask].astype(float), abs=0.51)


def test_the_dimmed_share_is_30_percent_unless_the_profile_says_otherwise():
    assert DrawingSettings().dim == 0.3


def test_the_overlay_is_the_image_with_green_outlines(segmentation):
    pixels = np.full((*SIZE, 3), 90, np.uint8)
    overlay = decode_png(render(pixels, segmentation, DrawingSettings()).overlay)
    for x0, y0, x1, y1 in segmentation.boxes.astype(int):
        assert (overlay[y1 - 1, x0 + 30 : x1] == GREEN).all()
        assert (overlay[y0 + 30 : y1, x1 - 1] == GREEN).all()
    assert (overlay[:5] == 90).all()
    assert (overlay[60:75, 60:90] == 90).all()


def test_outlines_have_the_profile_s_colour(segmentation):
    overlay = draw_overlay(np.zeros((*SIZE, 3), np.uint8), segmentation, (255, 0, 255))
    assert (overlay[79, 60] == (255, 0, 255)).all()
    assert not overlay[..., 1].any()


def test_every_region_has_its_own_label():
    size = (64, 256)
    pixels = np.full((*size, 3), 90, np.uint8)
    masks = [rectangle(size, 10, 10, 120, 60), rectangle(size, 130, 10, 250, 60)]
    overlay = draw_overlay(pixels, segmentation_of(size, *masks), GREEN)
    first, second = (overlay[12:40, x : x + 60] for x in (12, 132))
    assert (first != 90).any()
    assert (second != 90).any()
    assert not np.array_equal(first, second)  # ID:0 and ID:1


@pytest.mark.parametrize(("x", "y"), [(0, 0), (127, 0), (0, 95), (127, 95)])
def test_a_label_at_the_border_is_not_clipped(x, y):
    def label_at(x: int, y: int) -> np.ndarray:
        pixel = rectangle(SIZE, x, y, x + 1, y + 1)  # a pixel has no outline
        overlay = draw_overlay(np.full((*SIZE, 3), 90, np.uint8), segmentation_of(SIZE, pixel), GREEN)
        ys, xs = np.nonzero(overlay[..., 1] > 90)  # the shadow may be clipped
        return overlay[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]

    assert np.array_equal(label_at(x, y), label_at(60, 40))


def test_the_input_is_not_modified_and_may_be_read_only(segmentation):
    pixels = noise(*SIZE)
    pixels.flags.writeable = False
    render(pixels, segmentation, DrawingSettings())
    assert np.array_equal(pixels, noise(*SIZE))


def test_without_regions_the_overlay_is_the_image_itself():
    drawings = render(noise(*SIZE), segmentation_of(SIZE), DrawingSettings())
    assert drawings.spotlights == ()
    assert np.array_equal(decode_png(drawings.overlay), noise(*SIZE))


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (40, 2), (8, 8)])
def test_images_smaller_than_their_labels_are_drawn(size):
    drawings = render(noise(*size), segmentation_of(size, np.ones(size, np.bool_)), DrawingSettings())
    assert decode_png(drawings.overlay).shape == (*size, 3)
    assert np.array_equal(decode_png(drawings.spotlights[0]), noise(*size))
