"""Ids of regions requested by points, a box or a text; automatic segmentation numbers its own from 0."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, insert, select

from pipeline.errors import ImageNotFound, RegionNotFound
from pipeline.records import FIRST_SELECTED_REGION, RegionSelector
from pipeline.store.log import EventLog
from pipeline.store.tables import image_regions, images

MAX_REGION_ID = 2**31 - 1  # what the column holds on PostgreSQL


class RegionStore:
    """What the regions of images were requested by; methods block."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def add(self, image_id: str, selectors: Sequence[RegionSelector]) -> list[int]:
        """Return the ids of regions, in their order; one that was requested before has its id already.

        Raises:
            ImageNotFound: the image was deleted meanwhile.
        """
        rows = [_as_row(image_id, selector) for selector in selectors]
        with self._log.engine.connect() as connection:
            known = _known(connection, image_id)
        if not known.keys() >= {row["selector_digest"] for row in rows}:
            with self._log.writing() as connection:
                if connection.execute(select(images.c.image_id).where(images.c.image_id == image_id)).first() is None:
                    raise ImageNotFound(image_id=image_id)  # deleted meanwhile
                known = _known(connection, image_id)
                for row in rows:
                    if row["selector_digest"] not in known:
                        region_id = max(known.values(), default=FIRST_SELECTED_REGION - 1) + 1
                        connection.execute(insert(image_regions).values(row | {"region_id": region_id}))
                        known[row["selector_digest"]] = region_id
        return [known[row["selector_digest"]] for row in rows]

    def get(self, image_id: str, region_id: int) -> RegionSelector:
        """Return what a region was requested by.

        Raises:
            RegionNotFound: the image has no region with this id.
        """
        if region_id > MAX_REGION_ID:
            raise RegionNotFound(region_id=region_id, image_id=image_id)
        wanted = select(image_regions.c.selector).where(
            image_regions.c.image_id == image_id, image_regions.c.region_id == region_id
        )
        with self._log.engine.connect() as connection:
            selector = connection.execute(wanted).scalar_one_or_none()
        if selector is None:
            raise RegionNotFound(region_id=region_id, image_id=image_id)
        return RegionSelector.from_dict(selector)


def _as_row(image_id: str, selector: RegionSelector) -> dict[str, Any]:
    written = json.dumps(asdict(selector), sort_keys=True)
    digest = hashlib.sha256(written.encode()).hexdigest()
    return {"image_id": image_id, "selector": json.loads(written), "selector_digest": digest}


def _known(connection: Connection, image_id: str) -> dict[str, int]:
    """Return the ids of an image's regions by the digests of their selectors."""
    of_image = image_regions.c.image_id == image_id
    rows = connection.execute(select(image_regions.c.selector_digest, image_regions.c.region_id).where(of_image))
    return {row.selector_digest: row.region_id for row in rows}
