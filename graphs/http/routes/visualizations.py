"""Answers of `/visualize`: megabytes of Base64 that are written once for as long as their image is in use."""

from __future__ import annotations

import asyncio

import orjson

from graphs.concurrency import SingleFlight
from graphs.http.schemas import common as schemas
from pipeline.cache import SizedLru
from pipeline.records import Descriptions, Drawings, Segmentation

MAX_BYTES = 64 << 20

Found = tuple[Segmentation, Descriptions, Drawings]


class Visualizations:
    """Writes answers, and keeps all of each but the ids."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        # By identity: the same results are the same objects while they are remembered. To keep them keeps their ids.
        self._kept: SizedLru[tuple[int, ...], tuple[Found, bytes]] = SizedLru(max_bytes)
        self._writing: SingleFlight[tuple[int, ...], bytes] = SingleFlight()

    async def write(self, found: Found, *, request_id: str, image_id: str) -> bytes:
        """Write an image's regions as the JSON of a `schemas.Visualization`."""
        key = tuple(map(id, found))
        kept = self._kept.get(key)
        if kept is None:
            # In a thread: it takes long enough to keep others waiting.
            kept = found, await self._writing.run(key, lambda: asyncio.to_thread(_write_regions, *found))
            self._kept.put(key, kept, len(kept[1]) + len(found[2].overlay) + sum(map(len, found[2].spotlights)))
        ids = orjson.dumps({"request_id": request_id, "image_id": image_id})
        return b"".join((ids[:-1], kept[1]))


def _write_regions(segmentation: Segmentation, regions: Descriptions, drawings: Drawings) -> bytes:
    """All that follows the ids."""
    answer = schemas.Visualization(
        request_id="",
        image_id="",
        status="success",
        total_regions=len(segmentation),
        master_overlay=schemas.base64_text(drawings.overlay),
        individual_spotlights=[
            schemas.Spotlight(
                region_id=region.region_id,
                top_class=description.top[0].label,
                polygon=region.polygon,
                spotlight_image=schemas.base64_text(png),
            )
            for region, description, png in zip(segmentation, regions, drawings.spotlights, strict=True)
        ],
    )
    return b"," + answer.model_dump_json(by_alias=True, exclude={"request_id", "image_id"}).encode()[1:]
