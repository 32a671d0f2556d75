"""Images made from others: variations of the whole, and edits of a part of it."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from graphs.analysis.regions import ImageRegions
from graphs.analysis.runner import StageRunner
from graphs.generation.requests import GenerationOptions, nearest_size, to_request
from graphs.images import ImageRepository
from pipeline.errors import ConceptNotFound, InvalidRequest, RegionNotFound
from pipeline.imaging.masks import Mask, decode_mask, encode_mask
from pipeline.records import (
    EditArea,
    GenerationRequest,
    ImageRecord,
    Pixels,
    Segmentation,
    Source,
)
from pipeline.settings import Profile

WHITE = 128  # the least level of a mask that counts as white
MARGIN = 1 / 64  # of the longer side: the rim of a region, where its colour fades into what is around, may change too


class EditRequests:
    """Turns edits and variations into generation requests."""

    def __init__(self, profile: Profile, images: ImageRepository, stages: StageRunner, regions: ImageRegions) -> None:
        self._profile = profile
        self._images = images
        self._stages = stages
        self._regions = regions

    async def variation(
        self, record: ImageRecord, options: GenerationOptions, prompt: str | None, strength: float, request_id: str
    ) -> GenerationRequest:
        """Return a request for an image like this one.

        Args:
            prompt: the image's own if None, or what it shows.

        Raises:
            InvalidRequest: a parameter is outside of what the profile allows.
        """
        if prompt is None:
            prompt = record.request.prompt if record.request else await self._shown(record, request_id)
        return await self.from_image(
            (record.width, record.height), record.image_id, options, prompt, strength, mask=None
        )

    async def edit(
        self,
        record: ImageRecord,
        options: GenerationOptions,
        prompt: str,
        strength: float,
        mask: str | None,
        request_id: str,
    ) -> GenerationRequest:
        """Return a request for this image with other content where a mask is white, or everywhere.

        Args:
            mask: a picture of the image's size, in base64.

        Raises:
            InvalidRequest: a parameter is outside of what the profile allows, or the mask can't be used.
        """
        size = record.width, record.height
        decoded = None if mask is None else await self._decode_mask(mask, request_id)
        return await self.from_image(size, record.image_id, options, prompt, strength, decoded)

    async def within(
        self, request: GenerationRequest, area: EditArea, record: ImageRecord, request_id: str
    ) -> GenerationRequest:
        """Return the request of an edit with the mask of its area.

        Args:
            record: the image that is edited.

        Raises:
            InvalidRequest: the image has no such region.
            ConceptNotFound: the image doesn't show the text.
            Overloaded: too many analyses are running already.
            ModelNotReady, StageFailed, WorkerLost: from the workers.
        """
        mask = await self._mask(record, area, request_id)
        size = record.width, record.height
        rle = await asyncio.to_thread(_encode_mask, mask, size, (request.width, request.height))
        return replace(request, source=request.source and replace(request.source, mask=rle))

    async def from_image(
        self,
        picture: tuple[int, int],
        image_id: str,
        options: GenerationOptions,
        prompt: str,
        strength: float,
        mask: Mask | None,
        size: tuple[int, int] | None = None,
    ) -> GenerationRequest:
        """Return a request for an image made from a picture.

        Args:
            picture: its width and height.
            image_id: its id, as far as it has one yet.
            mask: (h, w) of the picture, where it may change; everywhere if None.
            size: width and height of the new image; nearest to the picture's own if None.

        Raises:
            InvalidRequest: a parameter is outside of what the profile allows, or the mask can't be used.
        """
        diffusion = self._profile.diffusion
        width, height = size or nearest_size(*picture, diffusion.limits)
        rle = None if mask is None else await asyncio.to_thread(_encode_mask, mask, picture, (width, height))
        source = Source(image_id=image_id, strength=strength, mask=rle)
        return to_request(options, diffusion, prompt, width, height, source)

    async def _shown(self, record: ImageRecord, request_id: str) -> str:
        description = await self._stages.describe(record, request_id)
        label = description.top[0].label.replace("_", " ")
        return self._profile.clip.labelling.template.replace("{label}", label)

    async def _decode_mask(self, picture: str, request_id: str) -> Mask:
        upload = await self._images.decode_upload(_decode_base64(picture), request_id)
        return await asyncio.to_thread(_luminance_mask, upload.pixels)

    async def _mask(self, record: ImageRecord, area: EditArea, request_id: str) -> Mask:
        """Return the union of an area's regions, (h, w), with their rims."""
        if area.region_ids:
            masks = [await self._region_mask(record, region_id, request_id) for region_id in area.region_ids]
            return await asyncio.to_thread(lambda: _with_rim(np.logical_or.reduce(masks)))
        found = await self._regions.requested(record, area.prompt, area.text, request_id)
        if not found.chosen:
            raise ConceptNotFound(concept=area.text)
        return await asyncio.to_thread(_union, found.segmentation, [chosen.row for chosen in found.chosen])

    async def _region_mask(self, record: ImageRecord, region_id: int, request_id: str) -> Mask:
        try:
            return await self._regions.mask(record, region_id, request_id)
        except RegionNotFound as error:
            problem = {"field": "area.region_ids", "problem": str(error)}
            raise InvalidRequest(problem=f"area.region_ids: {error}", errors=[problem]) from None


def _union(segmentation: Segmentation, numbers: Sequence[int]) -> Mask:
    """The union of regions, with their rims."""
    masks = [decode_mask(segmentation.rles[number], segmentation.size) for number in numbers]
    return _with_rim(np.logical_or.reduce(masks))


def _with_rim(mask: Mask) -> Mask:
    """Return a mask, (h, w), with its rim."""
    margin = max(1, round(MARGIN * max(mask.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    return cv2.dilate(mask.astype(np.uint8), disc) > 0


def _luminance_mask(pixels: Pixels) -> Mask:
    return pixels.max(axis=2) >= WHITE  # type: ignore[no-any-return]


def _encode_mask(mask: Mask, picture: tuple[int, int], size: tuple[int, int]) -> str:
    """Return a picture's mask as run lengths at the size of the new image; sizes are width and height."""
    height, width = mask.shape
    if (width, height) != picture:
        raise InvalidRequest(
            problem=f"The mask is {width} x {height}: send one of the image's size, {picture[0]} x {picture[1]}."
        )
    if not mask.any():
        raise InvalidRequest(problem="The mask lets nothing change: mark where the image is to change.")
    scaled = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return encode_mask(scaled).decode("ascii")


def _decode_base64(picture: str) -> bytes:
    try:
        return b64decode(picture.removeprefix("data:image/png;base64,"), validate=True)
    except (Base64Error, ValueError):
        raise InvalidRequest(problem="The mask is no base64. Send a picture's bytes in base64.") from None
