"""Uploads from clients: valid images of every kind, and invalid or malicious ones.

Random ones are drawn from the given generator, so they are reproducible from its seed.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from pipeline.imaging.codecs import MAX_SIDE

SIDE = 32
FORMATS = ("PNG", "JPEG", "WEBP")
OTHER_FORMATS = ("GIF", "TIFF", "BMP", "ICO")
COLOURED = (("P", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP"), ("CMYK", "JPEG"))  # modes other than RGB
GREY = (("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("L", "JPEG"))
UNFIT_SIZES = ((1, 1), (20_000, 10), (20_000, 20), (MAX_SIDE + 1, 64), (4000, 4000))
ORIENTATION = 0x0112  # EXIF's tag
NO_PICTURES = (b"", b"GIF89a", b"%PDF-1.4", b"<svg/>")
SIGNATURE = b"\x89PNG\r\n\x1a\n"

_STORED_AS = {  # the transposition that each orientation reverses
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def a_picture(mode: str = "RGB") -> Image.Image:
    """Return an image that is red on the left and blue on the right."""
    image = Image.new("RGB", (SIDE * 2, SIDE), (255, 0, 0))
    image.paste((0, 0, 255), (SIDE, 0, SIDE * 2, SIDE))
    return image.convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def blank(width: int, height: int) -> bytes:
    """Return a black PNG with one bit per pixel: few bytes at any size."""
    return encoded(Image.new("1", (width, height)))


def turned(orientation: int) -> bytes:
    """Return a JPEG with this EXIF orientation; upright, it is red on the left and blue on the right."""
    upright = a_picture()
    stored = upright.transpose(_STORED_AS[orientation]) if orientation in _STORED_AS else upright
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(stored, "JPEG", exif=exif, quality=95)


def animated(kind: str) -> bytes:
    """Return an animation: first red and blue, then green."""
    later = Image.new("RGB", (SIDE * 2, SIDE), (0, 255, 0))
    return encoded(a_picture(), kind, save_all=True, append_images=[later])


def sixteen_bits() -> bytes:
    """Return a 16-bit greyscale PNG from black to white."""
    ramp = np.linspace(0, 65535, SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)
    return encoded(Image.fromarray(ramp))


def with_metadata(kind: str) -> bytes:
    """Return an image with metadata: position, camera and author."""
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 0.0)})  # GPS
    options: dict[str, Any] = {
        "exif": exif,
        "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    }
    if kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("Author", "somebody")
    else:
        options["xmp"] = b"<x:xmpmeta>somebody</x:xmpmeta>"
    return encoded(a_picture(), kind, **options)


def bomb() -> bytes:
    """Return a PNG whose header claims 10 GB of RGB."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + _chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """Return a small PNG with a comment that decompresses to 200 MB."""
    whole = encoded(a_picture())
    after_header = len(SIGNATURE) + 25
    packed = zlib.compressobj(9)
    text = b"".join(packed.compress(b"\0" * 1_000_000) for _ in range(200)) + packed.flush()
    return whole[:after_header] + _chunk(b"zTXt", b"Comment\0\0" + text) + whole[after_header:]


def damaged(chance: random.Random, data: bytes) -> bytes:
    """Change one to eight bytes."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def truncated(chance: random.Random, data: bytes) -> bytes:
    """Keep a prefix of at least one byte."""
    return data[: chance.randint(1, len(data))]


def fit_pictures() -> dict[str, bytes]:
    """Return an upload of each kind that the service accepts."""
    return {
        **{kind: encoded(a_picture(), kind) for kind in FORMATS},
        **{f"{mode} {kind}": encoded(a_picture(mode), kind) for mode, kind in COLOURED + GREY},
        **{f"{kind} with metadata": with_metadata(kind) for kind in FORMATS},
        **{f"animated {kind}": animated(kind) for kind in ("PNG", "WEBP")},
        **{f"orientation {orientation}": turned(orientation) for orientation in range(1, 9)},
        "16 bits": sixteen_bits(),
        "progressive JPEG": encoded(a_picture(), "JPEG", progressive=True),
        "the most pixels": blank(4000, 3000),
    }


def unfit_pictures() -> dict[str, bytes]:
    """Return an upload of each kind that the service refuses."""
    return {
        **{kind: encoded(a_picture(), kind) for kind in OTHER_FORMATS},
        **{repr(data): data for data in NO_PICTURES},
        **{f"{width} x {height}": blank(width, height) for width, height in UNFIT_SIZES},
        "animated GIF": animated("GIF"),
        "only zeros": bytes(10_000),
        "bomb": bomb(),
        "text bomb": text_bomb(),
    }


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
