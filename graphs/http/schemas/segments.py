"""Regions in the forms that tools read: polygons, COCO run lengths, whole COCO documents, masks as PNG."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco
from pydantic import BaseModel, ConfigDict, Field, model_validator

from graphs.analysis.regions import ChosenRegion, FoundRegions
from graphs.http.schemas.common import Answer, base64_text
from graphs.http.schemas.generation import Prompt, RequestBody, RunLengths
from pipeline.errors import InvalidRequest
from pipeline.imaging import codecs as images
from pipeline.imaging.masks import decode_mask
from pipeline.records import Description, ImageRecord, PointsAndBox, Polygon, Region

MAX_POINTS = 64
DECIMALS = 4  # of scores
COCO_IMAGE = 1  # the id of the one image in a document


class SegmentFormat(StrEnum):
    """How regions are written."""

    POLYGONS = "polygons"
    RLE = "rle"
    COCO = "coco"
    PNG = "png"


class Label(BaseModel):
    """A label and its share of the confidence: all labels of a picture, and none of them, share 1."""

    label: str = Field(examples=["apple"], description="Name of what is shown.")
    confidence: float = Field(examples=[0.97], description="Its share of the confidence, 0 to 1.")


def labels_of(description: Description) -> list[Label]:
    """What a picture shows, best first."""
    return [Label(label=score.label, confidence=round(score.confidence, DECIMALS)) for score in description.top]


class Segment(BaseModel):
    """One region of an image, its mask in one of the forms."""

    region_id: int = Field(
        description="Unique within its image. Automatic segmentation counts from 0; regions requested by "
        "points, a box or a text count from 1,000,000."
    )
    box: tuple[int, int, int, int] = Field(description="x0, y0, x1, y1 in pixels, x1 and y1 exclusive.")
    area: int = Field(description="In pixels.")
    predicted_iou: float = Field(description="SAM2's estimate of the mask's IoU with the true one, 0 to 1.")
    stability: float = Field(description="IoU of the masks at a lower and a higher threshold, 0 to 1.")
    labels: list[Label] = Field(description="What the region shows, best first.")
    score: float | None = Field(description="How well it matches the text of the request, 0 to 1.")
    polygon: Polygon | None = Field(description="Outlines as lists of points [x, y] in pixels, with `format=polygons`.")
    rle: RunLengths | None = Field(description="The mask as run lengths, with `format=rle`.")
    mask: str | None = Field(description="Base64 PNG of one bit a pixel, white where the region is.")

    @classmethod
    def of(
        cls,
        region: Region,
        description: Description,
        size: tuple[int, int],
        *forms: SegmentFormat,
        chosen: ChosenRegion,
    ) -> Self:
        return cls(
            region_id=chosen.region_id,
            box=corners_of(region.box),
            area=area_of(region.rle, size),
            predicted_iou=round(region.predicted_iou, DECIMALS),
            stability=round(region.stability, DECIMALS),
            labels=labels_of(description),
            score=None if chosen.score is None else round(chosen.score, DECIMALS),
            polygon=region.polygon if SegmentFormat.POLYGONS in forms else None,
            rle=RunLengths.of(region.rle, size) if SegmentFormat.RLE in forms else None,
            mask=mask_png(region.rle, size) if SegmentFormat.PNG in forms else None,
        )


class Segments(Answer):
    """The regions of an image, most confident first, or best match first for a text."""

    width: int = Field(description="Of the image, in pixels.")
    height: int = Field(description="Of the image, in pixels.")
    segments: list[Segment] = Field(description="The regions.")


class CocoImage(BaseModel):
    id: int = Field(description="Id of the image in this document.")
    width: int = Field(description="In pixels.")
    height: int = Field(description="In pixels.")
    file_name: str = Field(description="Name of the file, after the id of the image.")


class CocoAnnotation(BaseModel):
    id: int = Field(description="`region_id` + 1.")
    image_id: int = Field(description="Id of the image in this document.")
    category_id: int = Field(description="Id of what the region shows.")
    segmentation: RunLengths = Field(description="The mask.")
    bbox: tuple[float, float, float, float] = Field(description="x, y, width and height in pixels.")
    area: float = Field(description="In pixels.")
    iscrowd: int = Field(description="Always 0.")
    score: float = Field(description="Match with the text of the request; the predicted IoU without a text.")


class CocoCategory(BaseModel):
    id: int = Field(description="Id of the category in this document.")
    name: str = Field(description="Label of what a region shows.")
    supercategory: str = Field(description="Always `object`.")


class CocoDocument(BaseModel):
    """One image's regions as COCO's object detection format; `pycocotools.coco.COCO` loads it."""

    info: dict[str, str] = Field(description="Source of the document.")
    licenses: list[dict[str, str]] = Field(description="Always empty.")
    images: list[CocoImage] = Field(description="The one image.")
    annotations: list[CocoAnnotation] = Field(description="The regions.")
    categories: list[CocoCategory] = Field(description="What the regions show.")

    @classmethod
    def of(cls, record: ImageRecord, found: FoundRegions) -> Self:
        """Write regions down; the categories are those of all regions of the segmentation."""
        best = [labels[0] for labels in found.descriptions.labels]
        size, regions = found.segmentation.size, list(found.segmentation)
        categories = {label: number for number, label in enumerate(sorted(set(best)), start=1)}
        return cls(
            info={"description": f"ai-pipeline, image {record.image_id}", "version": "1.0"},
            licenses=[],
            images=[
                CocoImage(id=COCO_IMAGE, width=record.width, height=record.height, file_name=f"{record.image_id}.png")
            ],
            annotations=[
                CocoAnnotation(
                    id=chosen.region_id + 1,  # pycocotools takes 0 for nothing
                    image_id=COCO_IMAGE,
                    category_id=categories[best[chosen.row]],
                    segmentation=RunLengths.of(regions[chosen.row].rle, size),
                    bbox=_bbox(regions[chosen.row].box),
                    area=area_of(regions[chosen.row].rle, size),
                    iscrowd=0,
                    score=round(regions[chosen.row].predicted_iou if chosen.score is None else chosen.score, DECIMALS),
                )
                for chosen in sorted(found.chosen, key=lambda each: each.row)
            ],
            categories=[
                CocoCategory(id=number, name=label, supercategory="object") for label, number in categories.items()
            ],
        )


class Point(BaseModel):
    """A point of an image, in pixels."""

    model_config = ConfigDict(extra="forbid")

    x: float = Field(ge=0, allow_inf_nan=False, description="Pixels from the left.")
    y: float = Field(ge=0, allow_inf_nan=False, description="Pixels from the top.")
    inside: bool = Field(True, description="Whether it lies in the region, or beside it.")


Coordinate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


Box = Annotated[tuple[Coordinate, Coordinate, Coordinate, Coordinate], Field(description="x0, y0, x1, y1 in pixels.")]


class PointsAndBoxFields(RequestBody):
    """A region by points, a box, or both."""

    points: list[Point] = Field([], max_length=MAX_POINTS, description="Points inside the region, or outside of it.")
    box: Box | None = Field(None, description="A box around the region: x0, y0, x1, y1 in pixels.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError("box is x0, y0, x1, y1: x1 must be more than x0, and y1 more than y0")
        return self

    @property
    def has_prompt(self) -> bool:
        """Whether there are points or a box."""
        return bool(self.points) or self.box is not None

    def as_prompt(self) -> PointsAndBox:
        """Return the points and the box as workers take them."""
        return PointsAndBox(points=tuple((p.x, p.y, p.inside) for p in self.points), box=self.box)

    def prompt_of(self, record: ImageRecord) -> PointsAndBox | None:
        """Return the prompt for an image; None if there are neither points nor a box.

        Raises:
            InvalidRequest: a point or the box is outside of the image.
        """
        self.check_inside(record)
        return self.as_prompt() if self.has_prompt else None

    def check_inside(self, record: ImageRecord) -> None:
        """Check that the points and the box are inside of an image.

        Raises:
            InvalidRequest: one isn't.
        """
        if not self.has_prompt:
            return
        xs = [point.x for point in self.points] + list((self.box or ())[0::2])
        ys = [point.y for point in self.points] + list((self.box or ())[1::2])
        if max(xs) > record.width or max(ys) > record.height:
            raise InvalidRequest(
                problem=f"A point or the box is outside of the image: it is {record.width} x {record.height} pixels."
            )


class SelectorFields(PointsAndBoxFields):
    """What to segment: what lies at points or in a box, or what matches a text."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"text": "apple"}, {"points": [{"x": 64, "y": 64}], "box": [20, 20, 100, 100]}]
        },
    )

    text: Annotated[Prompt | None, Field(description="Finds the regions that match it.")] = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.text is not None) == self.has_prompt:
            raise ValueError("send points and a box, or one of them, or a text alone")
        return self


class SegmentsBody(SelectorFields):
    """What to segment, and one form of its masks."""

    format: SegmentFormat = Field(SegmentFormat.POLYGONS, description="Form of the masks.")


def segments_of(found: FoundRegions, *forms: SegmentFormat) -> list[Segment]:
    """Write the chosen regions down, in their order."""
    regions, descriptions = list(found.segmentation), list(found.descriptions)
    size = found.segmentation.size
    return [
        Segment.of(regions[chosen.row], descriptions[chosen.row], size, *forms, chosen=chosen)
        for chosen in found.chosen
    ]


def corners_of(box: npt.NDArray[np.float32]) -> tuple[int, int, int, int]:
    """Return x0, y0, x1, y1 of a box (4,) in whole pixels."""
    x0, y0, x1, y1 = box.astype(int).tolist()
    return x0, y0, x1, y1


def _bbox(box: npt.NDArray[np.float32]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box.tolist()
    return x0, y0, x1 - x0, y1 - y0


def area_of(rle: bytes, size: tuple[int, int]) -> int:
    """Return the number of pixels of a mask of this height and width."""
    return int(coco.area({"size": list(size), "counts": rle}))


def mask_png(rle: bytes, size: tuple[int, int]) -> str:
    """Return a mask as a PNG of one bit a pixel, in Base64."""
    return base64_text(images.encode_mask_png(decode_mask(rle, size)))
