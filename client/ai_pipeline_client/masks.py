"""Masks as COCO's compressed run lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List, Tuple

from ai_pipeline_client.optional import require_numpy

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Mask = npt.NDArray[np.bool_]
else:
    Mask = Any

OFFSET = 48  # of the characters
BITS = 5  # of a value, in each character
MORE = 0x20  # further characters follow
SIGN = 0x10


def run_lengths(counts: str) -> List[int]:
    """Decode COCO's compressed run lengths: of the background, of the mask, of the background, and so on.

    From the fourth on, each is stored as the difference from the one before the last, in groups of 5 bits with the
    least significant first.

    Raises:
        ValueError: they aren't complete.
    """
    lengths: List[int] = []
    value = shift = 0
    for character in counts.encode("ascii"):
        code = character - OFFSET
        value |= (code & (MORE - 1)) << shift
        shift += BITS
        if code & MORE:
            continue
        if code & SIGN:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("The run lengths of a mask are incomplete.")
    return lengths


def decode_mask(counts: str, size: Tuple[int, int]) -> Mask:
    """Decode a mask.

    Args:
        counts: compressed run lengths, column by column.
        size: height and width in pixels.

    Returns:
        Bool array (h, w), True in the mask.

    Raises:
        ImportError: numpy isn't installed.
        ValueError: the run lengths don't fit the size.
    """
    numpy: Any = require_numpy()
    height, width = size
    lengths = run_lengths(counts)
    if sum(lengths) != height * width or min(lengths, default=0) < 0:
        raise ValueError(f"The run lengths of a mask don't make {height} × {width} pixels.")
    values = numpy.arange(len(lengths)) % 2 == 1
    mask: Mask = numpy.repeat(values, lengths).reshape((height, width), order="F")
    return mask
