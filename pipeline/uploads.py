"""Pictures from outside: refused while they are only a header, or turned into plain RGB pixels."""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import InvalidUpload
from pipeline.png_text import PARAMETERS
from pipeline.records import Upload

FORMATS = ("PNG", "JPEG", "WEBP")
MIN_SIDE = 16  # pixels; below it there is nothing to understand
MAX_SIDE = 4096
MAX_PIXELS = 12_000_000  # 36 MB as RGB
BACKGROUND = (255, 255, 255)  # shows through where a picture is transparent


def decode_upload(data: bytes) -> Upload:
    """Decode a PNG, JPEG or WebP file.

    The orientation that EXIF asks for is applied, transparency is laid on white, of an animation the first frame is
    taken, 16 bits become 8. Of all else in the file only a PNG's text `parameters` is kept.

    Returns:
        The picture, (h, w, 3) uint8 RGB, read-only.

    Raises:
        InvalidUpload: the file is of another kind, damaged, too small or too large; says which.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow doubts is refused below, or harmless
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
        # Where ultralytics is loaded it has replaced Image.open, which then looks for a HEIF plugin that isn't there.
        raise InvalidUpload(problem="The file is no PNG, JPEG or WebP picture. Send one of these.") from None
    except Exception as error:  # Pillow's decoders raise whatever their libraries do
        raise InvalidUpload(problem=f"The picture can't be decoded ({error}). Send a whole one.") from error
    pixels.flags.writeable = False
    return Upload(pixels=pixels, transparent=transparent, parameters=parameters if isinstance(parameters, str) else "")


def _check_size(width: int, height: int) -> None:
    """Look at the header's size, before a pixel is decoded."""
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InvalidUpload(
            problem=f"The picture is {width} x {height}. Send one with sides of {MIN_SIDE} to {MAX_SIDE} pixels and "
            f"at most {MAX_PIXELS} pixels in all."
        )


def _transparent(upright: Image.Image) -> npt.NDArray[np.bool_] | None:
    """Where nothing of a picture is to be seen, (h, w); None if there is no such place."""
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
