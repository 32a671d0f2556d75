"""Encoded pictures: those that the service returns, and those that are sent to it."""

from __future__ import annotations

import io
import os
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Optional, Union

from ai_pipeline_client.optional import require_numpy, require_pillow

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]
else:
    Pixels = Any

PictureSource = Union[str, os.PathLike[str], bytes, BinaryIO, "Picture", Any]
"""A file's path, encoded bytes, a binary file object, a `Picture`, a PIL image, or a numpy array: uint8 (h, w, 3), or
bool or uint8 (h, w)."""

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}  # by suffix
WHITE = 255


class Picture:
    """An encoded picture, such as a region's cutout.

    Attributes:
        data: the PNG's bytes.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __bytes__(self) -> bytes:
        return self.data

    def __repr__(self) -> str:
        return f"Picture({len(self.data)} bytes)"

    def save(self, path: Union[str, os.PathLike[str]]) -> None:
        """Write it to a file; another format than PNG, by the file's suffix, needs the extra `images`.

        Raises:
            ValueError: the suffix is none of .png, .jpg, .jpeg and .webp.
        """
        if format_of(path) == "png":
            Path(path).write_bytes(self.data)
        else:
            self.pil().save(path)

    def pil(self) -> Any:
        """Decode it as a `PIL.Image.Image`.

        Raises:
            ImportError: pillow isn't installed.
        """
        return opened(self.data)

    def numpy(self) -> Pixels:
        """Decode it as an array of uint8: (h, w, 3), or (h, w, 4) with transparency.

        Raises:
            ImportError: numpy or pillow isn't installed.
        """
        return pixels_of(self.data)

    def _repr_png_(self) -> bytes:
        return self.data


def opened(data: bytes) -> Any:
    """Decode a picture as a `PIL.Image.Image`."""
    pillow = require_pillow()
    picture = pillow.open(io.BytesIO(data))
    picture.load()
    return picture


def pixels_of(data: bytes) -> Pixels:
    """Decode a picture as an array of uint8 (h, w, channels)."""
    numpy = require_numpy()
    pixels: Pixels = numpy.asarray(opened(data))
    return pixels


def format_of(path: Union[str, os.PathLike[str]], format: Optional[str] = None) -> str:
    """Return the format of a file: the one given, or that of its suffix.

    Raises:
        ValueError: the suffix is that of no known format.
    """
    suffix = Path(path).suffix.lower()
    if format is None and suffix not in FORMATS:
        raise ValueError(f"{os.fspath(path)!r} ends in none of {', '.join(FORMATS)}: change it, or pass format.")
    return format or FORMATS[suffix]


def write_file(path: Union[str, os.PathLike[str]], data: bytes) -> Path:
    """Write bytes to a file; return its path."""
    Path(path).write_bytes(data)
    return Path(path)


def encoded(picture: PictureSource) -> bytes:
    """Return the encoded bytes of a picture: PNG, unless it is encoded already.

    Raises:
        ImportError: an array is given, and pillow isn't installed.
        OSError: the file can't be read.
        TypeError: it is nothing of what `PictureSource` lists.
    """
    if isinstance(picture, (bytes, bytearray, memoryview, Picture)):
        return bytes(picture)
    if isinstance(picture, (str, os.PathLike)):
        return Path(picture).read_bytes()
    if hasattr(picture, "__array_interface__"):  # numpy's, and PIL's, which isn't an array
        return _png(picture if hasattr(picture, "save") else _image_of(picture))
    if hasattr(picture, "read"):
        data = picture.read()
        if isinstance(data, bytes):
            return data
        raise TypeError("The file object returns text: open it in binary mode.")
    kinds = "a path, bytes, a binary file object, a PIL image or a numpy array"
    raise TypeError(f"{type(picture).__name__} is no picture: pass {kinds}.")


def base64_of(picture: PictureSource) -> str:
    """Return the Base64 of a picture's encoded bytes."""
    return b64encode(encoded(picture)).decode()


def _image_of(array: Any) -> Any:
    """Return an array as a PIL image."""
    numpy, pillow = require_numpy(), require_pillow()
    array = numpy.asarray(array)
    if array.dtype == numpy.bool_:
        array = array.astype(numpy.uint8) * WHITE
    if array.dtype != numpy.uint8:
        raise TypeError(f"The array is of {array.dtype}: pass uint8, from 0 to 255, or a mask of bool.")
    return pillow.fromarray(array)


def _png(picture: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
