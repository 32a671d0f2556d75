"""Source pictures of img2img and inpainting, prepared for the denoiser."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.imaging.codecs import resized
from pipeline.imaging.masks import Mask, decode_mask
from pipeline.records import GenerationRequest, Pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceImage:
    """A picture to start from instead of noise alone (arXiv:2108.01073), and which part of it may change."""

    pixels: Pixels  # (height, width, 3) of the request
    strength: float  # 0 to 1: the share of the steps that are run; 1 ignores the picture
    mask: Mask | None = None  # (height, width): where the image may change; None: everywhere


def origin_of(request: GenerationRequest, pixels: Pixels) -> SourceImage | None:
    """Prepare a request's source picture, (h, w, 3) uint8 of any size; None if the request has no source."""
    if request.source is None:
        return None
    mask = request.source.mask
    return SourceImage(
        pixels=resized(pixels, request.width, request.height),
        strength=request.source.strength,
        mask=None if mask is None else decode_mask(mask.encode(), (request.height, request.width)),
    )
