"""The area of an edit, as the API takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Dict, List, Optional, Union

from ai_pipeline_client.calls import BoxPrompt, Point, prompt_fields, without_none
from ai_pipeline_client.fields import RegionFields
from ai_pipeline_client.picture import PictureSource, base64_of

OneRegion = Union[RegionFields, int]


def edit_area(
    image_id: str,
    region: Union[OneRegion, Sequence[OneRegion], None],
    text: Optional[str],
    mask: Optional[PictureSource],
    points: Sequence[Point],
    box: Optional[BoxPrompt],
) -> Optional[Dict[str, Any]]:
    """Return the area of an edit; None for all of the image.

    Args:
        image_id: of the image that is edited.
        region: a region, its id, or several.
        text: what to find.
        mask: a picture, white where it may change.
        points: points of what to change.
        box: a box around it.

    Raises:
        ValueError: more than one area is given, or a region of another image.
    """
    pointed = without_none(prompt_fields(points, box))
    given = [area for area in (region, text, mask, pointed or None) if area is not None]
    if len(given) > 1:
        raise ValueError("Pass one of region, text, mask, or points with a box.")
    if region is not None:
        return {"region_ids": _region_ids(image_id, region)}
    if text is not None:
        return {"text": text}
    if mask is not None:
        return {"mask": base64_of(mask)}
    return pointed or None


def _region_ids(image_id: str, region: Union[OneRegion, Sequence[OneRegion]]) -> List[int]:
    regions = [region] if isinstance(region, (RegionFields, int)) else list(region)
    for each in regions:
        if isinstance(each, RegionFields) and each.image_id != image_id:
            raise ValueError(f"Region {each.region_id} is of image {each.image_id}, not of {image_id}.")
    return [each.region_id if isinstance(each, RegionFields) else int(each) for each in regions]
