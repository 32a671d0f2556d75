from __future__ import annotations

import io
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from pipeline.imaging.codecs import decode_png, digest, encode_png
from tests.unit.shapes import noise


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (64, 48)])
def test_png_is_lossless(size):
    pixels = noise(*size)
    assert np.array_equal(decode_png(encode_png(pixels)), pixels)


def test_other_decoders_read_the_same_colours():
    pixels = noise(5, 9)
    seen = Image.open(io.BytesIO(encode_png(pixels)))
    assert (seen.format, seen.mode) == ("PNG", "RGB")
    assert np.array_equal(np.asarray(seen), pixels)


def test_pixels_from_a_png_are_read_only_and_can_be_encoded_again():
    pixels = decode_png(encode_png(noise(4, 4)))
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0] = 0
    assert encode_png(pixels) == encode_png(noise(4, 4))


def test_a_view_of_an_array_encodes_like_its_copy():
    view = noise(8, 8)[::2, 1:7]
    assert encode_png(view) == encode_png(view.copy())


@pytest.mark.parametrize("data", [b"", b"junk", encode_png(noise(64, 64))[:5000]], ids=["empty", "junk", "truncated"])
def test_an_invalid_or_truncated_png_raises(data):
    with pytest.raises(ValueError, match="PNG"):
        decode_png(data)


def test_a_digest_depends_only_on_content_and_shape():
    pixels = noise(2, 8)
    view = np.repeat(pixels, 2, axis=0)[::2]
    assert digest(view) == digest(pixels)
    others = [pixels.reshape(4, 4, 3), pixels.reshape(8, 2, 3), noise(2, 8, seed=1), pixels[..., ::-1]]
    assert len({digest(p) for p in [pixels, *others]}) == 5


def test_a_digest_is_sha256_over_shape_and_bytes():
    pixels = noise(2, 3)
    assert digest(pixels) == sha256(b"(2, 3, 3)" + pixels.tobytes()).hexdigest()
