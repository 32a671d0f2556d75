"""Image digests, encoders and decoders. Uploads are rejected by their header's size, before pixels are decoded."""

from __future__ import annotations

import hashlib
import io
import warnings

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import InvalidUpload
from pipeline.imaging.png_metadata import PARAMETERS
from pipeline.records import Encoding, ImageFormat, Pixels, Upload

_QUALITY = {ImageFormat.JPEG: cv2.IMWRITE_JPEG_QUALITY, ImageFormat.WEBP: cv2.IMWRITE_WEBP_QUALITY}


def digest(pixels: Pixels) -> str:
    """Return an image's digest: SHA-256 in hex over its shape and RGB bytes.

    Args:
        pixels: (h, w, 3) uint8.
    """
    sha = hashlib.sha256(repr(pixels.shape).encode())
    sha.update(np.ascontiguousarray(pixels).data)
    return sha.hexdigest()


def digest_of_bytes(data: bytes) -> str:
    """Return the digest of bytes: the first half of their SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()[:32]


def encode_png(pixels: Pixels) -> bytes:
    """Encode an RGB image, (h, w, 3) uint8, as PNG.

    OpenCV at its default level: seven times as fast as Pillow's default on a photo, at nearly the same size.
    """
    _, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()


def encode(pixels: Pixels, encoding: Encoding) -> bytes:
    """Encode an RGB image, (h, w, 3) uint8, in the given format, scaled to the given size."""
    scaled = pixels if encoding.size is None else resized(pixels, *encoding.size)
    if encoding.format is ImageFormat.PNG:
        return encode_png(scaled)
    bgr = cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(f".{encoding.format.value}", bgr, [_QUALITY[encoding.format], encoding.quality])
    return encoded.tobytes()


def encode_mask_png(mask: npt.NDArray[np.bool_]) -> bytes:
    """Encode a mask, (h, w) bool, as a PNG of one bit per pixel: white where it is true."""
    levels = mask.astype(np.uint8) * 255
    _, encoded = cv2.imencode(".png", levels, [cv2.IMWRITE_PNG_BILEVEL, 1])
    return encoded.tobytes()


def encode_cutout(pixels: Pixels, mask: npt.NDArray[np.bool_], padding: int) -> bytes:
    """Encode a part of a picture as an RGBA PNG, transparent outside of a mask, cropped to it.

    Args:
        pixels: (h, w, 3) uint8.
        mask: (h, w) bool; true somewhere.
        padding: pixels around the mask's box, as far as the picture reaches.
    """
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    rows = slice(max(0, y - padding), y + height + padding)
    columns = slice(max(0, x - padding), x + width + padding)
    bgra = cv2.cvtColor(pixels[rows, columns], cv2.COLOR_RGB2BGRA)
    bgra[..., 3] = mask[rows, columns] * np.uint8(255)
    _, encoded = cv2.imencode(".png", bgra)
    return encoded.tobytes()


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """Scale a picture, (h, w, 3) uint8, to a size in pixels; one of that size is returned unchanged."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = pixels.shape[0] * pixels.shape[1] > height * width
    scaled = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(scaled, np.uint8)


def decode_png(data: bytes) -> Pixels:
    """Decode a PNG encoded by this service to (h, w, 3) uint8 RGB, read-only.

    Raises:
        ValueError: the bytes are no complete PNG.
    """
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if bgr is None:
        raise ValueError("not a PNG image")
    pixels = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    pixels.flags.writeable = False
    return pixels


FORMATS = ("PNG", "JPEG", "WEBP")
MIN_SIDE = 16  # pixels; smaller pictures are too small to analyze
MAX_SIDE = 4096
MAX_PIXELS = 12_000_000  # 36 MB as RGB
BACKGROUND = (255, 255, 255)  # RGB, behind transparent pixels


def decode_upload(data: bytes) -> Upload:
    """Decode a PNG, JPEG or WebP file.

    EXIF orientation is applied, transparency is composed onto white, an animation is reduced to its first frame, and 16
    bits to 8. Of the metadata only a PNG's text `parameters` is kept.

    Returns:
        The picture, (h, w, 3) uint8 RGB, read-only.

    Raises:
        InvalidUpload: the file has another format, is damaged, too small or too large; the message says which.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is rejected below, or harmless
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(*image.size)
                upright = ImageOps.exif_transpose(image)
                pixels = np.asarray(_to_rgb(upright), dtype=np.uint8)
                transparent = _transparent(upright)
                parameters = image.info.get(PARAMETERS, "")
    except InvalidUpload:
        raise
    except Image.DecompressionBombError:
        raise InvalidUpload(problem=f"The picture is too large. Send one of at most {MAX_PIXELS} pixels.") from None
    except (UnidentifiedImageError, ImportError):
        # Once loaded, ultralytics has replaced Image.open by a version that looks for a HEIF plugin, which is missing.
        raise InvalidUpload(problem="The file is no PNG, JPEG or WebP picture. Send one of these.") from None
    except Exception as error:  # Pillow's decoders raise any exception of their libraries
        raise InvalidUpload(problem=f"The picture can't be decoded ({error}). Send a whole one.") from error
    pixels.flags.writeable = False
    return Upload(pixels=pixels, transparent=transparent, parameters=parameters if isinstance(parameters, str) else "")


def _check_size(width: int, height: int) -> None:
    """Check the header's size, before pixels are decoded."""
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InvalidUpload(
            problem=f"The picture is {width} x {height}. Send one with sides of {MIN_SIDE} to {MAX_SIDE} pixels and "
            f"at most {MAX_PIXELS} pixels in all."
        )


def _transparent(upright: Image.Image) -> npt.NDArray[np.bool_] | None:
    """Return where a picture is fully transparent, (h, w) bool; None if nowhere."""
    if not upright.has_transparency_data:
        return None
    transparent = np.asarray(upright.convert("RGBA"))[..., 3] == 0
    return transparent if transparent.any() else None


def _to_rgb(upright: Image.Image) -> Image.Image:
    if upright.mode in ("I", "I;16", "I;16B", "I;16L"):  # Pillow would clip 16 bits instead of scaling them
        upright = Image.fromarray((np.asarray(upright).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if upright.has_transparency_data:
        layered = upright.convert("RGBA")
        canvas = Image.new("RGBA", layered.size, (*BACKGROUND, 255))
        return Image.alpha_composite(canvas, layered).convert("RGB")
    return upright.convert("RGB")
