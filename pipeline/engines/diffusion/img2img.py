"""Pictures that images are made from, as the denoiser takes them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.imaging.codecs import resized
from pipeline.imaging.masks import Mask, decode_mask
from pipeline.records import GenerationRequest, Pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceImage:
    """A picture to start from instead of noise alone (arXiv:2108.01073), and what of it must stay."""

    pixels: Pixels  # (height, width, 3) of the request
    strength: float  # 0 to 1: the share of the steps that are taken; 1 forgets the picture
    mask: Mask | None = None  # (height, width): only here anything changes; None: everywhere


def origin_of(request: GenerationRequest, pixels: Pixels) -> SourceImage | None:
    """Prepare the picture of a request's source, (h, w, 3) uint8 of any size; None if the request has no source."""
    if request.source is None:
        return None
    mask = request.source.mask
    return SourceImage(
        pixels=resized(pixels, request.width, request.height),
        strength=request.source.strength,
        mask=None if mask is None else decode_mask(mask.encode(), (request.height, request.width)),
    )
