"""Regions of images: what clients of `/v1/images/{image_id}/regions` send and get."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, Field

from graphs.analysis.regions import ChosenRegion, FoundRegions
from graphs.http.pagination import PageFields
from graphs.http.schemas.common import Answer
from graphs.http.schemas.generation import RunLengths
from graphs.http.schemas.segments import DECIMALS, Label, SelectorFields, area_of, corners_of, labels_of, mask_png
from pipeline.records import Description, ImageRecord, Polygon
from pipeline.records import Region as RegionRecord


class MaskForm(StrEnum):
    """Form of a mask, named like the field that has it."""

    POLYGONS = "polygons"
    RLE = "rle"
    MASK = "mask"


ALL_FORMS = tuple(MaskForm)


class Region(BaseModel):
    """A region of an image."""

    region_id: int = Field(
        description="Unique within its image. Automatic segmentation counts from 0; regions requested by "
        "points, a box or a text count from 1,000,000."
    )
    url: str = Field(description="Path of the region.", examples=["/v1/images/0198…/regions/0"])
    label: str = Field(description="What the region shows.", examples=["apple"])
    confidence: float = Field(description="Softmax share of the label, 0 to 1.", examples=[0.97])
    labels: list[Label] = Field(description="The best labels, best first.")
    box: tuple[int, int, int, int] = Field(description="x0, y0, x1, y1 in pixels, x1 and y1 exclusive.")
    area: int = Field(description="In pixels.")
    predicted_iou: float = Field(description="SAM2's estimate of the mask's IoU with the true one, 0 to 1.")
    stability: float = Field(description="IoU of the masks at a lower and a higher threshold, 0 to 1.")
    match: float | None = Field(description="Match with the text of the request, 0 to 1; null without a text.")
    polygons: Polygon | None = Field(description="Outlines as lists of points [x, y] in pixels, with `as=polygons`.")
    rle: RunLengths | None = Field(description="The mask as run lengths, with `as=rle`.")
    mask_b64: str | None = Field(description="Base64 PNG, white where the region is, with `as=mask`.")

    @classmethod
    def of(
        cls,
        image_id: str,
        region: RegionRecord,
        description: Description,
        size: tuple[int, int],
        forms: Collection[MaskForm],
        chosen: ChosenRegion,
    ) -> Self:
        labels = labels_of(description)
        return cls(
            region_id=chosen.region_id,
            url=f"/v1/images/{image_id}/regions/{chosen.region_id}",
            label=labels[0].label,
            confidence=labels[0].confidence,
            labels=labels,
            box=corners_of(region.box),
            area=area_of(region.rle, size),
            predicted_iou=round(region.predicted_iou, DECIMALS),
            stability=round(region.stability, DECIMALS),
            match=None if chosen.score is None else round(chosen.score, DECIMALS),
            polygons=region.polygon if MaskForm.POLYGONS in forms else None,
            rle=RunLengths.of(region.rle, size) if MaskForm.RLE in forms else None,
            mask_b64=mask_png(region.rle, size) if MaskForm.MASK in forms else None,
        )


class RegionWithAliases(Region):
    """A region, with the fields of its older representation."""

    score: float | None = Field(description="The same as `match`.", deprecated=True)
    polygon: Polygon | None = Field(description="The same as `polygons`.", deprecated=True)
    mask: str | None = Field(description="The same as `mask_b64`.", deprecated=True)

    @classmethod
    def with_aliases(cls, region: Region) -> Self:
        facts = region.model_dump()
        return cls(**facts, score=facts["match"], polygon=facts["polygons"], mask=facts["mask_b64"])


class RegionList(PageFields, Answer):
    """The regions of an image, most confident first, or best match first for a text."""

    width: int = Field(description="Of the image, in pixels.")
    height: int = Field(description="Of the image, in pixels.")
    data: list[Region] = Field(description="The regions, all of them.")

    @classmethod
    def of(cls, record: ImageRecord, found: FoundRegions, forms: Collection[MaskForm], *, request_id: str) -> Self:
        return cls(
            request_id=request_id,
            image_id=record.image_id,
            width=record.width,
            height=record.height,
            data=regions_of(record.image_id, found, forms),
            has_more=False,
            next=None,
        )


class RegionsBody(SelectorFields):
    """What to segment, and the forms of its masks."""

    as_: list[MaskForm] = Field(
        [MaskForm.POLYGONS], alias="as", max_length=len(MaskForm), description="Forms of the masks."
    )


def regions_of(image_id: str, found: FoundRegions, forms: Collection[MaskForm]) -> list[Region]:
    """Write the chosen regions down, in their order."""
    regions, descriptions = list(found.segmentation), list(found.descriptions)
    size = found.segmentation.size
    return [
        Region.of(image_id, regions[chosen.row], descriptions[chosen.row], size, forms, chosen)
        for chosen in found.chosen
    ]
