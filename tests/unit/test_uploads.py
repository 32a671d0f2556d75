from __future__ import annotations

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InvalidUpload
from pipeline.uploads import MAX_SIDE, decode_upload

SIDE = 32


def a_picture(mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (SIDE * 2, SIDE), (255, 0, 0))
    image.paste((0, 0, 255), (SIDE, 0, SIDE * 2, SIDE))
    return image.convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def is_red_then_blue(pixels: np.ndarray) -> bool:
    left, right = pixels[SIDE // 2, SIDE // 2].astype(int), pixels[SIDE // 2, SIDE * 3 // 2].astype(int)
    return left[0] > 200 > 60 > left[2] and right[2] > 200 > 60 > right[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats(kind: str):
    pixels = decode_upload(encoded(a_picture(), kind))

    assert (pixels.shape, pixels.dtype, pixels.flags.writeable) == ((SIDE, SIDE * 2, 3), np.uint8, False)
    assert is_red_then_blue(pixels)


@pytest.mark.parametrize(("mode", "kind"), [("P", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP"), ("CMYK", "JPEG")])
def test_every_mode_becomes_rgb(mode: str, kind: str):
    assert is_red_then_blue(decode_upload(encoded(a_picture(mode), kind)))


def test_grey_sixteen_bits_and_one_bit():
    ramp = np.linspace(0, 65535, SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)
    pixels = decode_upload(encoded(Image.fromarray(ramp)))
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, -1, 0] == 255
    assert 120 < pixels[SIDE // 2, 0, 0] < 136
    assert decode_upload(encoded(Image.new("1", (SIDE, SIDE), 1))).min() == 255
    assert decode_upload(encoded(Image.new("L", (SIDE, SIDE), 77), "JPEG")).max() < 80


def test_transparency_is_laid_on_white():
    assert decode_upload(encoded(Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)))).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_and_the_metadata_gone(orientation: int):
    upright = a_picture()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation

    assert is_red_then_blue(decode_upload(encoded(stored, "JPEG", exif=exif, quality=95)))


def test_an_animation_gives_its_first_frame():
    later = Image.new("RGB", (SIDE * 2, SIDE), (0, 255, 0))
    for kind in ("WEBP", "PNG"):
        animated = encoded(a_picture(), kind, save_all=True, append_images=[later])
        assert is_red_then_blue(decode_upload(animated))


@pytest.mark.parametrize("size", [(1, 1), (20_000, 20), (MAX_SIDE + 1, 64), (4000, 4000)])
def test_too_small_and_too_large_are_refused_with_what_is_allowed(size: tuple[int, int]):
    with pytest.raises(InvalidUpload, match=str(MAX_SIDE)):
        decode_upload(encoded(Image.new("1", size)))


def test_a_bomb_is_refused_before_it_is_decoded():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)  # 10 GB as RGB
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )

    with pytest.raises(InvalidUpload, match="60000"):
        decode_upload(bomb)


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"%PDF-1.4", b"<svg/>", encoded(a_picture(), "GIF"), encoded(a_picture(), "TIFF")]
)
def test_other_files_are_refused_with_what_to_send(data: bytes):
    with pytest.raises(InvalidUpload, match="PNG, JPEG or WebP"):
        decode_upload(data)


def test_damaged_files_are_decoded_or_refused_and_never_anything_else():
    """A thousand mutations and truncations, from a printed seed."""
    seed = 20_261_122
    print(f"seed {seed}")
    chance = random.Random(seed)
    whole = [encoded(a_picture(), kind) for kind in ("PNG", "JPEG", "WEBP")]
    refused = 0
    for _ in range(1000):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            decode_upload(bytes(data[: chance.randint(1, len(data))]))
        except InvalidUpload:
            refused += 1
    assert refused > 500
