"""Every call of the HTTP API as data: the request, and how to decode its response. Nothing is sent here."""

from __future__ import annotations

import secrets
import struct
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict, TypeVar, Unpack

import httpx

from ai_pipeline_client.acts import Call
from ai_pipeline_client.decoding import decoded
from ai_pipeline_client.results import (
    About,
    Accepted,
    Analysis,
    Concepts,
    Image,
    Job,
    Page,
    Segment,
    Uploaded,
    Visualization,
)

T = TypeVar("T")

Point = tuple[float, float] | tuple[float, float, bool]  # x and y in pixels, and whether it lies inside, by default
MaskForm = Literal["polygons", "rle", "png"]

PAGE = 20
NOW = {"Prefer": "respond-async"}  # RFC 7240


class Parameters(TypedDict, total=False):
    """The parameters of an image besides its prompt; the service's profile has defaults for all of them."""

    negative_prompt: str
    seed: int | None  # of the first image, random if None; each further one has the next
    steps: int | None
    guidance: float | None  # classifier-free guidance scale
    width: int | None  # pixels; for new images only
    height: int | None
    scheduler: str | None
    deterministic: bool  # bit-identical under any load


class Filter(TypedDict, total=False):
    """Which images to list."""

    session: str | None  # created in it
    label: str | None  # one of the classes it shows
    prompt: str | None  # a substring of its prompt
    since: datetime | None  # created then or later
    until: datetime | None  # created before


def about() -> Call[About]:
    """Get the service's status and device, and the profile's defaults and limits."""
    return Call(method="GET", path="/", read=_as(About))


def create(prompt: str, *, n: int = 1, **parameters: Unpack[Parameters]) -> Call[Accepted]:
    """Submit the generation of images from a prompt, without waiting for them.

    Args:
        n: number of images, 1 to 10.
        parameters: see `Parameters`.
    """
    return _creation("/v1/images", {"prompt": prompt, "n": n, **parameters})


def create_variations(
    image_id: str, *, prompt: str | None = None, strength: float = 0.6, n: int = 1, **parameters: Unpack[Parameters]
) -> Call[Accepted]:
    """Submit the generation of variations of an image, without waiting for them.

    Args:
        prompt: the image's own if None, or what it shows.
        strength: how much may change, above 0 to 1.
        n: number of images, 1 to 10.
        parameters: see `Parameters`.
    """
    body = {"prompt": prompt, "strength": strength, "n": n, **parameters}
    return _creation(f"/v1/images/{image_id}/variations", body)


def create_edits(
    image_id: str,
    prompt: str,
    *,
    mask: bytes | None = None,
    region: int | None = None,
    concept: str | None = None,
    strength: float = 1.0,
    n: int = 1,
    **parameters: Unpack[Parameters],
) -> Call[Accepted]:
    """Submit an edit of a part of an image, without waiting for it; of all of it, if no part is given.

    Args:
        mask: a PNG of the image's size, white where it may change.
        region: or a region's number, from `segments`.
        concept: or what to find and change, such as "apple".
        strength: how much may change there, above 0 to 1.
        n: number of images, 1 to 10.
        parameters: see `Parameters`.
    """
    area = {"mask": None if mask is None else b64encode(mask).decode(), "region": region, "concept": concept}
    body = {"prompt": prompt, "strength": strength, "n": n, **area, **parameters}
    return _creation(f"/v1/images/{image_id}/edits", body)


def upload(picture: bytes) -> Call[Uploaded]:
    """Upload a picture: PNG, JPEG or WebP."""
    return Call(
        method="POST",
        path="/v1/images/upload",
        read=_as(Uploaded),
        files={"file": picture},
        headers=_key(),
    )


def images(*, limit: int = PAGE, before: str | None = None, **wanted: Unpack[Filter]) -> Call[Page[Image]]:
    """List images, newest first.

    Args:
        limit: maximum number, 1 to 100.
        before: the `next` of the previous page.
        wanted: see `Filter`.
    """
    params = _without_none({"limit": limit, "before": before, **wanted})
    timestamps = {name: value.isoformat() for name, value in params.items() if isinstance(value, datetime)}
    return Call(method="GET", path="/v1/images", read=_page(Image, "images"), params=params | timestamps)


def image(image_id: str) -> Call[Image]:
    """Get an image's metadata: size, digest and how it was made."""
    return Call(method="GET", path=f"/v1/images/{image_id}", read=_as(Image))


def delete(image_id: str) -> Call[None]:
    """Delete an image and everything computed from it."""
    return Call(method="DELETE", path=f"/v1/images/{image_id}", read=lambda _: None, is_repeatable=False)


def content(
    image_id: str, *, format: Literal["png", "jpeg", "webp"] = "png", size: int | None = None, quality: int = 90
) -> Call[bytes]:
    """Get the picture's encoded bytes.

    Args:
        size: of the longer side, in pixels; the image's own if None.
        quality: of JPEG and WebP, 1 to 100.
    """
    params = _without_none({"format": format, "size": size, "quality": quality})
    return _picture(f"/v1/images/{image_id}/content", params)


def overlay(image_id: str) -> Call[bytes]:
    """Get the image with the outlines of all its regions, as PNG."""
    return _picture(f"/v1/images/{image_id}/overlay.png")


def spotlight(image_id: str, region: int) -> Call[bytes]:
    """Get the image with everything outside of a region dimmed, as PNG."""
    return _picture(f"/v1/images/{image_id}/spotlights/{region}.png")


def visualize(image_id: str) -> Call[Visualization]:
    """Get the overlay and every spotlight at once."""
    return Call(method="POST", path="/visualize", read=_as(Visualization), json={"image_id": image_id})


def analysis(image_id: str, *, labels: Sequence[str] = (), templates: Sequence[str] = ()) -> Call[Analysis]:
    """Classify an image and each of its regions.

    Args:
        labels: the classes to choose from; the profile's if left out.
        templates: prompts that contain `{label}`, whose vectors are averaged; the profile's if left out.
    """
    params: dict[str, Any] = {"labels": ",".join(labels)} if labels else {}
    if templates:
        params["templates"] = list(templates)
    return Call(method="GET", path=f"/v1/images/{image_id}/analysis", read=_as(Analysis), params=params)


def segments(image_id: str, *, format: MaskForm = "polygons") -> Call[tuple[Segment, ...]]:
    """Segment an image: every region, most confident first.

    Args:
        format: encoding of each segment's mask: its `polygon`, its `rle`, or a PNG as its `mask`.
    """
    return Call(method="GET", path=f"/v1/images/{image_id}/segments", read=_segments, params={"format": format})


def coco(image_id: str) -> Call[dict[str, Any]]:
    """Get all regions in COCO's object detection format, which `pycocotools.coco.COCO` loads."""
    params = {"format": "coco"}
    return Call(method="GET", path=f"/v1/images/{image_id}/segments", read=_as(dict[str, Any]), params=params)


def find(image_id: str, text: str, *, format: MaskForm = "polygons") -> Call[tuple[Segment, ...]]:
    """Find the regions that match a text, best match first; none, if the image doesn't show it."""
    return _prompted_segments(image_id, {"text": text, "format": format})


def cut_out(
    image_id: str,
    *,
    points: Sequence[Point] = (),
    box: tuple[float, float, float, float] | None = None,
    format: MaskForm = "polygons",
) -> Call[tuple[Segment, ...]]:
    """Segment the object at points, in a box, or both.

    Args:
        points: each x, y, and False for one that lies outside of the object.
        box: x0, y0, x1, y1.
    """
    prompts = [{"x": x, "y": y, "inside": inside[0] if inside else True} for x, y, *inside in points]
    return _prompted_segments(image_id, _without_none({"points": prompts, "box": box, "format": format}))


def region(image_id: str, number: int) -> Call[Segment]:
    """Get a region, its mask in every format."""
    return Call(method="GET", path=f"/v1/images/{image_id}/regions/{number}", read=_as(Segment))


def probe(image_id: str, concepts: Sequence[str]) -> Call[Concepts]:
    """Score how well concepts match an image and each of its regions."""
    body = {"concepts": list(concepts)}
    return Call(method="POST", path=f"/v1/images/{image_id}/probe", read=_as(Concepts), json=body)


def embed(*, texts: Sequence[str] = (), image_ids: Sequence[str] = ()) -> Call[tuple[tuple[float, ...], ...]]:
    """Embed texts and images with CLIP, as vectors of unit norm: the texts' first."""
    inputs = [*texts, *({"image_id": image_id} for image_id in image_ids)]
    return Call(
        method="POST",
        path="/v1/embeddings",
        read=lambda answer: tuple(_vector(row["embedding"]) for row in answer.json()["data"]),
        json={"input": inputs, "encoding_format": "base64"},
    )


def jobs(*, limit: int = PAGE, before: str | None = None, states: Sequence[str] = ()) -> Call[Page[Job]]:
    """List jobs, newest first.

    Args:
        limit: maximum number, 1 to 100.
        before: the `next` of the previous page.
        states: only these, such as "running" and "dead".
    """
    params = _without_none({"limit": limit, "before": before, "state": list(states)})
    return Call(method="GET", path="/v1/jobs", read=_page(Job, "jobs"), params=params)


def job(job_id: str) -> Call[Job]:
    """Get a job and its state."""
    return Call(method="GET", path=f"/v1/jobs/{job_id}", read=_as(Job))


def cancel(job_id: str) -> Call[Job]:
    """Cancel a job; one that has ended stays as it is."""
    return Call(method="POST", path=f"/v1/jobs/{job_id}/cancel", read=_as(Job))


def retry(job_id: str) -> Call[Job]:
    """Retry a job that failed, was cancelled or is dead."""
    return Call(method="POST", path=f"/v1/jobs/{job_id}/retry", read=_as(Job), is_repeatable=False)


def _creation(path: str, body: Mapping[str, Any]) -> Call[Accepted]:
    return Call(method="POST", path=path, read=_as(Accepted), json=_without_none(body), headers=NOW | _key())


def _prompted_segments(image_id: str, body: Mapping[str, Any]) -> Call[tuple[Segment, ...]]:
    return Call(method="POST", path=f"/v1/images/{image_id}/segments", read=_segments, json=body)


def _picture(path: str, params: Mapping[str, Any] | None = None) -> Call[bytes]:
    return Call(method="GET", path=path, read=lambda answer: answer.content, params=params or {})


def _key() -> dict[str, str]:
    """Return a new idempotency key, which all attempts of a call share."""
    return {"Idempotency-Key": secrets.token_urlsafe(18)}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _as(kind: type[T]) -> Callable[[httpx.Response], T]:
    return lambda answer: decoded(kind, answer.json())


def _page(kind: type[T], name: str) -> Callable[[httpx.Response], Page[T]]:
    def read(answer: httpx.Response) -> Page[T]:
        payload = answer.json()
        return Page(items=tuple(decoded(kind, item) for item in payload[name]), next=payload["next"])

    return read


def _segments(answer: httpx.Response) -> tuple[Segment, ...]:
    return tuple(decoded(Segment, segment) for segment in answer.json()["segments"])


def _vector(encoded: str) -> tuple[float, ...]:
    data = b64decode(encoded)
    return struct.unpack(f"<{len(data) // struct.calcsize('<f')}f", data)
