"""Search of images: criteria, and their query."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Select, exists, func, select

from pipeline.store.tables import image_labels, image_sessions, images


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFilter:
    """Criteria for images; None, or none, matches all."""

    ids: Collection[str] = ()  # any of these
    session: str | None = None  # in which the image was made
    label: str | None = None  # of the picture, as set by `Store.label`
    prompt: str | None = None  # a part of its prompt, case-insensitive (ASCII only on SQLite)
    made_from: str | None = None  # the id of the image it was made from
    tags: Collection[str] = ()  # all of these
    metadata: Mapping[str, str] = field(default_factory=dict)  # values by key, all of these


ALL_IMAGES = ImageFilter()


def found_by(wanted: ImageFilter, owner: str) -> Select[Any]:
    """Return the query for an owner's images that match a filter."""
    query = select(images).where(images.c.owner == owner)
    if wanted.ids:
        query = query.where(images.c.image_id.in_(wanted.ids))
    if wanted.session is not None:
        is_of_session = image_sessions.c.session == wanted.session
        query = query.where(exists().where(image_sessions.c.image_id == images.c.image_id, is_of_session))
    if wanted.label is not None:
        labelled = select(image_labels.c.digest).where(
            image_labels.c.owner == owner, image_labels.c.label == wanted.label
        )
        query = query.where(images.c.digest.in_(labelled))
    if wanted.prompt is not None:
        # Both are lowered in SQL: SQLite lowers ASCII only, and equal texts must match.
        pattern = re.sub(r"([%_/])", r"/\1", wanted.prompt)
        prompt = func.lower(images.c.request["prompt"].as_string())
        query = query.where(prompt.like(func.lower(f"%{pattern}%"), escape="/"))
    if wanted.made_from is not None:
        query = query.where(images.c.made_from == wanted.made_from)
    for tag in wanted.tags:
        query = query.where(images.c.tags[tag].as_string().is_not(None))
    for key, value in wanted.metadata.items():
        query = query.where(images.c.metadata[key].as_string() == value)
    return query
