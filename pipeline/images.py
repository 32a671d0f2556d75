"""Pixels in, bytes out: digests and the one place that encodes PNG."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np

from pipeline.records import Pixels


def digest(pixels: Pixels) -> str:
    """Name an image by its content: SHA-256 in hex over its shape and RGB bytes.

    Args:
        pixels: (h, w, 3) uint8.
    """
    sha = hashlib.sha256(repr(pixels.shape).encode())
    sha.update(np.ascontiguousarray(pixels).data)
    return sha.hexdigest()


def encode_png(pixels: Pixels) -> bytes:
    """Encode an RGB image, (h, w, 3) uint8, as PNG.

    OpenCV at its default level: seven times as fast as Pillow's default on a photo, at nearly the same size.
    """
    _, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()


def decode_png(data: bytes) -> Pixels:
    """Decode a PNG this service encoded to (h, w, 3) uint8 RGB, read-only.

    Raises:
        ValueError: the bytes are no whole PNG.
    """
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if bgr is None:
        raise ValueError("not a PNG image")
    pixels = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    pixels.flags.writeable = False
    return pixels
