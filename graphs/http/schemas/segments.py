"""Regions in the forms that tools read: polygons, COCO run lengths, whole COCO documents, masks as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco
from pydantic import BaseModel, ConfigDict, Field, model_validator

from graphs.http.schemas.common import Answer, base64_text
from graphs.http.schemas.generation import Prompt
from pipeline.imaging import codecs as images
from pipeline.imaging.masks import decode_mask
from pipeline.records import Description, Descriptions, ImageRecord, Polygon, Region, Segmentation

MAX_POINTS = 64
COCO_IMAGE = 1  # the id of the one image in a document


class SegmentFormat(StrEnum):
    """How regions are written."""

    POLYGONS = "polygons"
    RLE = "rle"
    COCO = "coco"
    PNG = "png"


class Label(BaseModel):
    """A label and its share of the confidence: all labels of a picture, and none of them, share 1."""

    label: str = Field(examples=["apple"])
    confidence: float = Field(examples=[0.97])


def labels_of(description: Description) -> list[Label]:
    """What a picture shows, best first."""
    return [Label(label=score.label, confidence=score.confidence) for score in description.top]


class RunLengths(BaseModel):
    """A mask as COCO's compressed run lengths: `pycocotools.mask.decode` takes it as it is."""

    size: tuple[int, int] = Field(description="Height and width, in pixels.")
    counts: str

    @classmethod
    def of(cls, rle: bytes, size: tuple[int, int]) -> Self:
        return cls(size=size, counts=rle.decode("ascii"))


class Segment(BaseModel):
    """One region of an image, its mask in one of the forms."""

    region_id: int
    box: tuple[int, int, int, int] = Field(description="x0, y0, x1, y1 in pixels, x1 and y1 exclusive.")
    area: int = Field(description="In pixels.")
    predicted_iou: float
    stability: float
    labels: list[Label]
    score: float | None = Field(None, description="How well it matches the text of the request, 0 to 1.")
    polygon: Polygon | None = None
    rle: RunLengths | None = None
    mask: str | None = Field(None, description="Base64 PNG of one bit a pixel, white where the region is.")

    @classmethod
    def of(
        cls, region: Region, description: Description, size: tuple[int, int], *forms: SegmentFormat, score: float | None
    ) -> Self:
        return cls(
            region_id=region.region_id,
            box=_corners(region.box),
            area=_area(region.rle, size),
            predicted_iou=region.predicted_iou,
            stability=region.stability,
            labels=labels_of(description),
            score=score,
            polygon=region.polygon if SegmentFormat.POLYGONS in forms else None,
            rle=RunLengths.of(region.rle, size) if SegmentFormat.RLE in forms else None,
            mask=_mask_png(region.rle, size) if SegmentFormat.PNG in forms else None,
        )


class Segments(Answer):
    """The regions of an image, most confident first, or best match first for a text."""

    width: int
    height: int
    segments: list[Segment]


class CocoImage(BaseModel):
    id: int
    width: int
    height: int
    file_name: str


class CocoAnnotation(BaseModel):
    id: int
    image_id: int
    category_id: int
    segmentation: RunLengths
    bbox: tuple[float, float, float, float] = Field(description="x, y, width and height in pixels.")
    area: float
    iscrowd: int
    score: float = Field(description="The region's predicted IoU.")


class CocoCategory(BaseModel):
    id: int
    name: str
    supercategory: str


class CocoDocument(BaseModel):
    """One image's regions as COCO's object detection format; `pycocotools.coco.COCO` loads it."""

    info: dict[str, str]
    licenses: list[dict[str, str]]
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]

    @classmethod
    def of(
        cls,
        record: ImageRecord,
        segmentation: Segmentation,
        descriptions: Descriptions,
        chosen: Sequence[int] | None = None,
    ) -> Self:
        """Write regions down, all or those of these numbers."""
        best = [labels[0] for labels in descriptions.labels]
        categories = {label: number for number, label in enumerate(sorted(set(best)), start=1)}
        return cls(
            info={"description": f"ai-pipeline, image {record.image_id}", "version": "1.0"},
            licenses=[],
            images=[
                CocoImage(id=COCO_IMAGE, width=record.width, height=record.height, file_name=f"{record.image_id}.png")
            ],
            annotations=[
                CocoAnnotation(
                    id=region.region_id + 1,  # pycocotools takes 0 for nothing
                    image_id=COCO_IMAGE,
                    category_id=categories[label],
                    segmentation=RunLengths.of(region.rle, segmentation.size),
                    bbox=_bbox(region.box),
                    area=_area(region.rle, segmentation.size),
                    iscrowd=0,
                    score=region.predicted_iou,
                )
                for region, label in zip(segmentation, best, strict=True)
                if chosen is None or region.region_id in chosen
            ],
            categories=[
                CocoCategory(id=number, name=label, supercategory="object") for label, number in categories.items()
            ],
        )


class Point(BaseModel):
    """A point of an image, in pixels."""

    model_config = ConfigDict(extra="forbid")

    x: float = Field(ge=0, allow_inf_nan=False)
    y: float = Field(ge=0, allow_inf_nan=False)
    inside: bool = Field(True, description="Whether it lies in the region, or beside it.")


Coordinate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SegmentsBody(BaseModel):
    """What is to be cut out: what lies at points or in a box, or what a text names."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"text": "apple"}, {"points": [{"x": 64, "y": 64}], "box": [20, 20, 100, 100]}]
        },
    )

    points: list[Point] = Field([], max_length=MAX_POINTS)
    box: Annotated[
        tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None, Field(description="x0, y0, x1, y1 in pixels.")
    ] = None
    text: Annotated[
        Prompt | None, Field(description="Finds what it names among the image's regions, if it is there.")
    ] = None
    format: SegmentFormat = SegmentFormat.POLYGONS

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.text is None) == (not self.points and self.box is None):
            raise ValueError("send points and a box, or one of them, or a text alone")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError("box is x0, y0, x1, y1: x1 must be more than x0, and y1 more than y0")
        return self


def segments_of(
    segmentation: Segmentation,
    descriptions: Descriptions,
    *forms: SegmentFormat,
    chosen: Sequence[tuple[int, float | None]] | None = None,
) -> list[Segment]:
    """Write regions down.

    Args:
        chosen: numbers of those that are wanted, in their order, with a score for each; all if None.
    """
    everything = list(zip(segmentation, descriptions, strict=True))
    wanted = [(number, None) for number in range(len(everything))] if chosen is None else chosen
    return [Segment.of(*everything[number], segmentation.size, *forms, score=score) for number, score in wanted]


def _corners(box: npt.NDArray[np.float32]) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box.astype(int).tolist()
    return x0, y0, x1, y1


def _bbox(box: npt.NDArray[np.float32]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box.tolist()
    return x0, y0, x1 - x0, y1 - y0


def _area(rle: bytes, size: tuple[int, int]) -> int:
    return int(coco.area({"size": list(size), "counts": rle}))


def _mask_png(rle: bytes, size: tuple[int, int]) -> str:
    return base64_text(images.encode_mask_png(decode_mask(rle, size)))
