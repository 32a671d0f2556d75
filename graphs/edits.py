"""Images made from others: variations of the whole, and edits of a part of it."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from graphs.parameters import Parameters, nearest_size
from pipeline.errors import ConceptNotFound, InvalidRequest, RegionNotFound
from pipeline.records import GenerationRequest, ImageRecord, Segmentation, Source
from pipeline.regions import Mask, decode_mask, encode_mask

if TYPE_CHECKING:
    from graphs.flow import Flow

WHITE = 128  # the least level of a mask that counts as white
MARGIN = 1 / 64  # of the longer side: the rim of a region, where its colour fades into what is around, may change too


@dataclass(frozen=True, kw_only=True, slots=True)
class Area:
    """Where an image may change, said in one way; everywhere if in none."""

    mask: Mask | None = None  # (h, w) of the image
    picture: str | None = None  # the same in base64, white where it may change
    region: int | None = None
    concept: str | None = None


class Edits:
    """Turns wishes into requests that a worker can do."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    async def variation(
        self, record: ImageRecord, parameters: Parameters, prompt: str | None, strength: float, request_id: str
    ) -> GenerationRequest:
        """A request for an image like this one.

        Args:
            prompt: the image's own if None, or what it shows.

        Raises:
            InvalidRequest: a parameter is outside of what the profile allows.
        """
        if prompt is None:
            prompt = record.request.prompt if record.request else await self._shown(record, request_id)
        return self._request(record, parameters, prompt, strength, None, None)

    async def edit(
        self,
        record: ImageRecord,
        parameters: Parameters,
        prompt: str,
        strength: float,
        area: Area,
        request_id: str,
        size: tuple[int, int] | None = None,
    ) -> GenerationRequest:
        """A request for this image with something else in an area.

        Args:
            size: width and height of the new image; nearest to the image's own if None.

        Raises:
            InvalidRequest: a parameter is outside of what the profile allows, or the area can't be used.
            ConceptNotFound: the image doesn't show it.
            RegionNotFound: the image has no such region.
        """
        return self._request(record, parameters, prompt, strength, await self._mask(record, area, request_id), size)

    def _request(
        self,
        record: ImageRecord,
        parameters: Parameters,
        prompt: str,
        strength: float,
        mask: Mask | None,
        size: tuple[int, int] | None,
    ) -> GenerationRequest:
        diffusion = self._flow.profile.diffusion
        width, height = size or nearest_size(record.width, record.height, diffusion.limits)
        rle = None if mask is None else encode_mask(_scaled(mask, width, height)).decode("ascii")
        source = Source(image_id=record.image_id, strength=strength, mask=rle)
        return parameters.complete(diffusion, prompt, width, height, source)

    async def _shown(self, record: ImageRecord, request_id: str) -> str:
        description = await self._flow.describe(record, request_id)
        label = description.top[0].label.replace("_", " ")
        return self._flow.profile.clip.labelling.template.replace("{label}", label)

    async def _mask(self, record: ImageRecord, area: Area, request_id: str) -> Mask | None:
        if area.mask is not None:
            return _checked(area.mask, record)
        if area.picture is not None:
            upload = await self._flow.decode(_bytes_of(area.picture), request_id)
            return _checked(upload.pixels.max(axis=2) >= WHITE, record)
        if area.region is None and area.concept is None:
            return None
        segmentation = await self._flow.segment(record, request_id)
        if area.region is not None:
            return _union(segmentation, [existing_region(area.region, segmentation)])
        found = await self._flow.questions.find(record, str(area.concept), request_id)
        if not found:
            raise ConceptNotFound(concept=area.concept)
        return await asyncio.to_thread(_union, segmentation, found.region_ids)


def existing_region(number: int, segmentation: Segmentation) -> int:
    """The number of a region, if it is one.

    Raises:
        RegionNotFound: the image has no such region.
    """
    if not 0 <= number < len(segmentation):
        raise RegionNotFound(region=number, regions=len(segmentation))
    return number


def _union(segmentation: Segmentation, numbers: Sequence[int]) -> Mask:
    """All that is in one of these regions, and their rims."""
    masks = [decode_mask(segmentation.rles[number], segmentation.size) for number in numbers]
    margin = max(1, round(MARGIN * max(segmentation.size)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    return cv2.dilate(np.logical_or.reduce(masks).astype(np.uint8), disc) > 0


def _checked(mask: Mask, record: ImageRecord) -> Mask:
    height, width = mask.shape
    if (width, height) != (record.width, record.height):
        raise InvalidRequest(
            problem=f"The mask is {width} x {height}: send one of the image's size, {record.width} x {record.height}."
        )
    if not mask.any():
        raise InvalidRequest(problem="The mask lets nothing change: mark where the image is to change.")
    return mask


def _scaled(mask: Mask, width: int, height: int) -> Mask:
    scaled = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return scaled > 0


def _bytes_of(picture: str) -> bytes:
    try:
        return b64decode(picture.removeprefix("data:image/png;base64,"), validate=True)
    except (Base64Error, ValueError):
        raise InvalidRequest(problem="The mask is no base64. Send a picture's bytes in base64.") from None
