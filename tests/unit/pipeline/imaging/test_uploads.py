from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InvalidUpload
from pipeline.imaging.codecs import MAX_SIDE, decode_upload
from tests.hostile_pictures import (
    COLOURED,
    FORMATS,
    NO_PICTURES,
    OTHER_FORMATS,
    SIDE,
    UNFIT_SIZES,
    a_picture,
    animated,
    blank,
    bomb,
    damaged,
    encoded,
    sixteen_bits,
    text_bomb,
    truncated,
    turned,
)


def pixels_of(data: bytes) -> np.ndarray:
    return decode_upload(data).pixels


def is_red_then_blue(pixels: np.ndarray) -> bool:
    left, right = pixels[SIDE // 2, SIDE // 2].astype(int), pixels[SIDE // 2, SIDE * 3 // 2].astype(int)
    return left[0] > 200 > 60 > left[2] and right[2] > 200 > 60 > right[0]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_three_formats_are_decoded(kind: str):
    pixels = pixels_of(encoded(a_picture(), kind))

    assert (pixels.shape, pixels.dtype, pixels.flags.writeable) == ((SIDE, SIDE * 2, 3), np.uint8, False)
    assert is_red_then_blue(pixels)


@pytest.mark.parametrize(("mode", "kind"), COLOURED)
def test_every_mode_becomes_rgb(mode: str, kind: str):
    assert is_red_then_blue(pixels_of(encoded(a_picture(mode), kind)))


def test_grey_sixteen_bits_and_one_bit():
    pixels = pixels_of(sixteen_bits())
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, -1, 0] == 255
    assert 120 < pixels[SIDE // 2, 0, 0] < 136
    assert pixels_of(encoded(Image.new("1", (SIDE, SIDE), 1))).min() == 255
    assert pixels_of(encoded(Image.new("L", (SIDE, SIDE), 77), "JPEG")).max() < 80


def test_transparency_is_composited_on_white():
    assert pixels_of(encoded(Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)))).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_and_metadata_is_removed(orientation: int):
    assert is_red_then_blue(pixels_of(turned(orientation)))


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind: str):
    assert is_red_then_blue(pixels_of(animated(kind)))


@pytest.mark.parametrize("size", UNFIT_SIZES)
def test_sizes_out_of_bounds_are_refused_with_the_bounds(size: tuple[int, int]):
    with pytest.raises(InvalidUpload, match=str(MAX_SIDE)):
        pixels_of(blank(*size))


def test_bombs_are_refused_before_they_are_decoded():
    with pytest.raises(InvalidUpload, match="at most"):
        pixels_of(bomb())
    with pytest.raises(InvalidUpload, match="too large"):
        pixels_of(text_bomb())


@pytest.mark.parametrize("data", [*NO_PICTURES, *(encoded(a_picture(), kind) for kind in OTHER_FORMATS)])
def test_other_files_are_refused_with_the_accepted_formats(data: bytes):
    with pytest.raises(InvalidUpload, match="PNG, JPEG or WebP"):
        pixels_of(data)


def test_damaged_files_are_decoded_or_refused():
    """Decode a thousand mutations and truncations, from a printed seed."""
    seed = 20_261_122
    print(f"seed {seed}")
    chance = random.Random(seed)
    whole = [encoded(a_picture(), kind) for kind in FORMATS]
    refused = 0
    for _ in range(1000):
        try:
            pixels_of(truncated(chance, damaged(chance, chance.choice(whole))))
        except InvalidUpload:
            refused += 1
    assert refused > 500
