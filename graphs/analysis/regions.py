"""Regions of an image: those of automatic segmentation, and those that points, a box or a text ask for.

The latter have ids of their own, from `FIRST_SELECTED_REGION` on. What is stored is how to find them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from graphs.analysis.queries import ImageQueries
from graphs.analysis.runner import StageRunner
from graphs.analysis.stages import DESCRIBE_REGIONS, RENDER, SEGMENT
from graphs.concurrency import AdmissionLimiter, task_group
from graphs.images import ImageRepository
from graphs.workers.handles import SharedImage, Workers, retry_once
from pipeline.errors import RegionNotFound
from pipeline.events import DomainEvent
from pipeline.imaging.codecs import decode_png, encode_cutout, encode_mask_png
from pipeline.imaging.masks import Mask, decode_mask
from pipeline.records import (
    FIRST_SELECTED_REGION,
    Computed,
    Descriptions,
    ImageRecord,
    PointsAndBox,
    RegionSelector,
    Segmentation,
)
from pipeline.settings import Profile
from pipeline.store.regions import RegionStore


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenRegion:
    """One region of a segmentation."""

    row: int  # of the segmentation and its descriptions
    region_id: int  # unique within the image
    score: float | None = None  # match with the text that was requested, 0 to 1


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundRegions:
    """Regions that were chosen from a segmentation."""

    segmentation: Segmentation
    descriptions: Descriptions  # of all its regions
    chosen: tuple[ChosenRegion, ...]


class ImageRegions:
    """Finds the regions of images.

    Args:
        admission: bounds the requests that have regions cut out.
        emit: takes every event.
    """

    def __init__(
        self,
        *,
        profile: Profile,
        workers: Workers,
        images: ImageRepository,
        stages: StageRunner,
        queries: ImageQueries,
        store: RegionStore,
        admission: AdmissionLimiter,
        emit: Callable[[DomainEvent], None],
    ) -> None:
        self._profile = profile
        self._workers = workers
        self._images = images
        self._stages = stages
        self._queries = queries
        self._store = store
        self._admission = admission
        self._emit = emit

    async def all(self, record: ImageRecord, request_id: str) -> FoundRegions:
        """Return all regions of automatic segmentation."""
        segmentation, descriptions = await self._segmented(record, request_id)
        chosen = tuple(ChosenRegion(row=row, region_id=row) for row in range(len(segmentation)))
        return FoundRegions(segmentation=segmentation, descriptions=descriptions, chosen=chosen)

    async def get(self, record: ImageRecord, region_id: int, request_id: str) -> FoundRegions:
        """Return one region, found again if it was requested.

        Raises:
            RegionNotFound: the image has no region with this id.
        """
        if region_id < FIRST_SELECTED_REGION:
            segmentation, descriptions = await self._segmented(record, request_id)
            chosen = ChosenRegion(row=check_region(region_id, segmentation, record), region_id=region_id)
            return FoundRegions(segmentation=segmentation, descriptions=descriptions, chosen=(chosen,))
        selector = await asyncio.to_thread(self._store.get, record.image_id, region_id)
        if selector.prompt is not None:
            return await self.cut_out(record, selector.prompt, request_id)
        found = await self.find(record, str(selector.text), request_id)
        if selector.match >= len(found.chosen):  # another model finds fewer
            raise RegionNotFound(region_id=region_id, image_id=record.image_id)
        return FoundRegions(
            segmentation=found.segmentation,
            descriptions=found.descriptions,
            chosen=(found.chosen[selector.match],),
        )

    async def cut_out(self, record: ImageRecord, prompt: PointsAndBox, request_id: str) -> FoundRegions:
        """Cut out the region at points or in a box, and classify it.

        Raises:
            Overloaded: too many analyses are running already.
            ModelNotReady, StageFailed, WorkerLost: from the workers.
        """
        segmentation, descriptions = await self._cut_out(
            record,
            "segment_prompts",
            lambda image: self._workers.segment_prompts(image, [prompt], self._profile.sam2.everything),
            request_id,
        )
        ids = await self._keep(record, [RegionSelector(prompt=prompt)])
        chosen = tuple(ChosenRegion(row=row, region_id=region_id) for row, region_id in enumerate(ids))
        return FoundRegions(segmentation=segmentation, descriptions=descriptions, chosen=chosen)

    async def find(self, record: ImageRecord, text: str, request_id: str) -> FoundRegions:
        """Find what a text names: by SAM3 where the profile has it, else among all regions; maybe nothing.

        Raises:
            Overloaded: too many analyses are running already.
            ModelNotReady, StageFailed, WorkerLost: from the workers.
        """
        if (sam3 := self._profile.sam3) is None:
            return await self._rank(record, text, request_id)
        segmentation, descriptions = await self._cut_out(
            record, "find", lambda image: self._workers.find(image, text, sam3), request_id
        )
        ids = await self._keep(record, [RegionSelector(text=text, match=row) for row in range(len(segmentation))])
        scores = segmentation.predicted_iou.tolist()
        return FoundRegions(
            segmentation=segmentation,
            descriptions=descriptions,
            chosen=tuple(
                ChosenRegion(row=row, region_id=region_id, score=score)
                for row, (region_id, score) in enumerate(zip(ids, scores, strict=True))
            ),
        )

    async def matching(self, record: ImageRecord, text: str | None, request_id: str) -> FoundRegions:
        """Return all regions of automatic segmentation, or those that match a text."""
        if text is None:
            return await self.all(record, request_id)
        return await self.find(record, text, request_id)

    async def requested(
        self, record: ImageRecord, prompt: PointsAndBox | None, text: str | None, request_id: str
    ) -> FoundRegions:
        """Return the region at points or in a box, or those that match a text; one of the two is given."""
        if prompt is not None:
            return await self.cut_out(record, prompt, request_id)
        return await self.find(record, str(text), request_id)

    async def spotlight(self, record: ImageRecord, region_id: int, request_id: str) -> bytes:
        """Draw the image with everything outside of a region dimmed, as PNG.

        Raises:
            RegionNotFound: the image has no region with this id.
        """
        if region_id < FIRST_SELECTED_REGION:
            row = check_region(region_id, await self._stages.result(SEGMENT, record, request_id), record)
            return (await self._stages.result(RENDER, record, request_id)).spotlights[row]
        found = await self.get(record, region_id, request_id)
        with self._admission.admit(request_id):
            image = await self._images.share(record)
            drawn = await retry_once(
                "render",
                request_id,
                lambda: self._workers.render(image, found.segmentation, self._profile.drawing),
                self._emit,
            )
        return drawn.value.spotlights[found.chosen[0].row]

    async def mask(self, record: ImageRecord, region_id: int, request_id: str) -> Mask:
        """Return a region's mask, (h, w) bool.

        Raises:
            RegionNotFound: the image has no region with this id.
        """
        if region_id < FIRST_SELECTED_REGION:  # needs no description
            segmentation = await self._stages.result(SEGMENT, record, request_id)
            row = check_region(region_id, segmentation, record)
        else:
            found = await self.get(record, region_id, request_id)
            segmentation, row = found.segmentation, found.chosen[0].row
        return await asyncio.to_thread(decode_mask, segmentation.rles[row], segmentation.size)

    async def mask_png(self, record: ImageRecord, region_id: int, request_id: str) -> bytes:
        """Return a region's mask as a PNG of one bit a pixel, of the image's size, white where the region is.

        Raises:
            RegionNotFound: the image has no region with this id.
        """
        return await asyncio.to_thread(encode_mask_png, await self.mask(record, region_id, request_id))

    async def cutout(self, record: ImageRecord, region_id: int, padding: int, request_id: str) -> bytes:
        """Return a region as an RGBA PNG, transparent around it, cropped to its box.

        Args:
            padding: pixels around the box, as far as the image reaches.

        Raises:
            RegionNotFound: the image has no region with this id.
            Overloaded: too many analyses are running already.
        """
        mask = await self.mask(record, region_id, request_id)
        with self._admission.admit(request_id):
            png = await self._images.png(record)
            return await asyncio.to_thread(lambda: encode_cutout(decode_png(png), mask, padding))

    async def _rank(self, record: ImageRecord, text: str, request_id: str) -> FoundRegions:
        async with task_group() as group:
            segmenting = group.create_task(self._segmented(record, request_id))
            ranking = group.create_task(self._queries.rank_regions(record, text, request_id))
        segmentation, descriptions = segmenting.result()
        found = ranking.result()
        return FoundRegions(
            segmentation=segmentation,
            descriptions=descriptions,
            chosen=tuple(
                ChosenRegion(row=row, region_id=row, score=score)
                for row, score in zip(found.region_ids, found.scores, strict=True)
            ),
        )

    async def _segmented(self, record: ImageRecord, request_id: str) -> tuple[Segmentation, Descriptions]:
        async with task_group() as group:
            segmenting = group.create_task(self._stages.result(SEGMENT, record, request_id))
            describing = group.create_task(self._stages.result(DESCRIBE_REGIONS, record, request_id))
        return segmenting.result(), describing.result()

    async def _cut_out(
        self,
        record: ImageRecord,
        stage: str,
        work: Callable[[SharedImage], Awaitable[Computed[Segmentation]]],
        request_id: str,
    ) -> tuple[Segmentation, Descriptions]:
        with self._admission.admit(request_id):
            image = await self._images.share(record)
            labelling = self._profile.clip.labelling
            regions = (await retry_once(stage, request_id, lambda: work(image), self._emit)).value
            described = await retry_once(
                f"describe_{stage}",
                request_id,
                lambda: self._workers.describe(image, regions, labelling),
                self._emit,
            )
            return regions, described.value

    async def _keep(self, record: ImageRecord, selectors: Sequence[RegionSelector]) -> list[int]:
        return await asyncio.to_thread(self._store.add, record.image_id, selectors)


def check_region(region_id: int, segmentation: Segmentation, record: ImageRecord) -> int:
    """Return the row of a region of automatic segmentation.

    Raises:
        RegionNotFound: the image has no such region.
    """
    if not 0 <= region_id < len(segmentation):
        raise RegionNotFound(region_id=region_id, image_id=record.image_id)
    return region_id
