from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.imaging.masks import decode_mask, encode_mask, masked_crops, outline
from tests.unit.shapes import noise, rectangle, segmentation_of

SIZE = (40, 60)


def disc(size: tuple[int, int], x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


MASKS = {
    "rectangle": rectangle(SIZE, 5, 10, 50, 30),
    "disc": disc(SIZE, 30, 20, 15),
    "noise": noise(*SIZE)[..., 0] > 127,
    "everything": np.ones(SIZE, np.bool_),
    "nothing": np.zeros(SIZE, np.bool_),
    "one pixel": rectangle(SIZE, 59, 39, 60, 40),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_run_length_encoding_is_lossless(mask):
    decoded = decode_mask(encode_mask(mask), SIZE)
    assert decoded.dtype == np.bool_
    assert np.array_equal(decoded, mask)


def test_a_rectangles_outline_is_its_corners():
    (contour,) = outline(MASKS["rectangle"])
    assert sorted(contour) == [[5, 10], [5, 29], [49, 10], [49, 29]]


def test_a_filled_outline_approximates_the_mask():
    mask = disc((200, 200), 100, 90, 70)
    (contour,) = outline(mask)
    filled = cv2.fillPoly(np.zeros(mask.shape, np.uint8), [np.array(contour, np.int32)], 1).astype(bool)
    assert (filled & mask).sum() / (filled | mask).sum() > 0.95
    assert len(contour) < 60


def test_each_component_has_a_contour_except_specks_and_lines():
    mask = rectangle(SIZE, 2, 2, 22, 22) | rectangle(SIZE, 30, 2, 45, 20)
    mask |= rectangle(SIZE, 50, 35, 52, 37) | rectangle(SIZE, 2, 30, 40, 31)
    assert sorted(min(contour) for contour in outline(mask)) == [[2, 2], [30, 2]]


def test_a_hole_has_no_contour():
    mask = rectangle(SIZE, 5, 5, 35, 35) & ~rectangle(SIZE, 15, 15, 25, 25)
    assert len(outline(mask)) == 1


@pytest.mark.parametrize(
    "mask", [MASKS["nothing"], MASKS["one pixel"], rectangle(SIZE, 2, 5, 30, 6)], ids=["nothing", "one pixel", "line"]
)
def test_a_mask_without_area_has_no_outline(mask):
    assert outline(mask) == []


def test_contours_are_lists_of_three_or_more_points():
    for contour in outline(MASKS["noise"]):
        assert len(contour) >= 3
        assert all(type(number) is int for point in contour for number in point)


def test_crops_show_the_region_and_fill_the_rest():
    pixels, fill = noise(*SIZE), (1, 2, 3)
    masks = [MASKS["disc"], MASKS["rectangle"], MASKS["one pixel"]]
    segmentation = segmentation_of(SIZE, *masks)
    crops = list(masked_crops(pixels, segmentation, fill))

    assert [crop.shape for crop in crops] == [(29, 29, 3), (20, 45, 3), (1, 1, 3)]
    for crop, mask, box in zip(crops, masks, segmentation.boxes.astype(int), strict=True):
        x0, y0, x1, y1 = box
        inside = mask[y0:y1, x0:x1]
        assert np.array_equal(crop[inside], pixels[mask])
        assert (crop[~inside] == fill).all()


def test_crops_of_a_read_only_image_are_writable_copies():
    pixels = noise(*SIZE)
    pixels.flags.writeable = False
    (crop,) = masked_crops(pixels, segmentation_of(SIZE, MASKS["everything"]), (0, 0, 0))
    crop[...] = 0
    assert np.array_equal(pixels, noise(*SIZE))


def test_without_regions_there_are_no_crops():
    assert list(masked_crops(noise(*SIZE), segmentation_of(SIZE), (0, 0, 0))) == []
