"""How images are found: by session, by what they show, by what they were made of, by time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, exists, func, insert, select

from pipeline.store.interface import ImageFilter
from pipeline.store.tables import image_labels, image_sessions, images


def found_by(wanted: ImageFilter, owner: str) -> Select[Any]:
    """The query for an owner's images that a filter lets through, newest first."""
    query = select(images).where(images.c.owner == owner).order_by(images.c.image_id.desc())
    if wanted.session is not None:
        is_of_session = image_sessions.c.session == wanted.session
        query = query.where(exists().where(image_sessions.c.image_id == images.c.image_id, is_of_session))
    if wanted.label is not None:
        labelled = select(image_labels.c.digest).where(
            image_labels.c.owner == owner, image_labels.c.label == wanted.label
        )
        query = query.where(images.c.digest.in_(labelled))
    if wanted.prompt is not None:
        # Both in SQL: SQLite lowers ASCII alone, and what is written alike must be found.
        pattern = re.sub(r"([%_/])", r"/\1", wanted.prompt)
        prompt = func.lower(images.c.request["prompt"].as_string())
        query = query.where(prompt.like(func.lower(f"%{pattern}%"), escape="/"))
    if wanted.since is not None:
        query = query.where(images.c.created_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(images.c.created_at < wanted.until)
    return query


def enter_sessions(connection: Connection, image_id: str, sessions: Sequence[str]) -> None:
    """Write down in which sessions an image was made."""
    if sessions:
        connection.execute(
            insert(image_sessions), [{"image_id": image_id, "session": session} for session in dict.fromkeys(sessions)]
        )


def label_picture(connection: Connection, owner: str, digest: str, labels: Mapping[str, float]) -> None:
    """Write down what a picture shows, instead of what was said of it before; one without an image is left out."""
    of_picture = (image_labels.c.owner == owner) & (image_labels.c.digest == digest)
    connection.execute(delete(image_labels).where(of_picture))
    exists = select(images.c.image_id).where(images.c.owner == owner, images.c.digest == digest).limit(1)
    if labels and connection.execute(exists).one_or_none() is not None:
        rows = [{"owner": owner, "digest": digest, "label": name, "confidence": c} for name, c in labels.items()]
        connection.execute(insert(image_labels), rows)


def forget_image(connection: Connection, image_id: str) -> None:
    """Remove an image from the sessions it was made in."""
    connection.execute(delete(image_sessions).where(image_sessions.c.image_id == image_id))


def forget_picture(connection: Connection, owner: str, digest: str) -> None:
    """Remove what a picture shows, when no image has it any more."""
    of_picture = (image_labels.c.owner == owner) & (image_labels.c.digest == digest)
    connection.execute(delete(image_labels).where(of_picture))
