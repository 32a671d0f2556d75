"""A call of the HTTP API as data: the request, and how to decode its response. Nothing is sent here."""

from __future__ import annotations

import secrets
import struct
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Callable, Dict, FrozenSet, Generic, Literal, Optional, Tuple, Type, TypedDict, TypeVar, Union
from urllib.parse import quote

import httpx

from ai_pipeline_client.decoding import decoded
from ai_pipeline_client.errors import UnexpectedAnswer
from ai_pipeline_client.results import Accepted, Job, Page, Segment

T = TypeVar("T")

Point = Union[Tuple[float, float], Tuple[float, float, bool]]  # x and y in pixels; whether it lies inside, by default
BoxPrompt = Tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels
Include = Literal["content", "labels", "regions"]
Order = Literal["desc", "asc"]
Format = Literal["png", "jpeg", "webp"]
MaskForm = Literal["polygons", "rle", "png"]

RESPOND_ASYNC = {"Prefer": "respond-async"}  # RFC 7240


class Parameters(TypedDict, total=False):
    """The parameters of an image besides its prompt; the service's profile has defaults for all of them."""

    negative_prompt: str
    seed: Optional[int]  # of the first image, random if None; each further one has the next
    steps: Optional[int]
    guidance: Optional[float]  # classifier-free guidance scale
    width: Optional[int]  # pixels; for new images only
    height: Optional[int]
    scheduler: Optional[str]
    deterministic: bool  # bit-identical under any load


class Filter(TypedDict, total=False):
    """Which images to list."""

    session: Optional[str]  # created in it
    label: Optional[str]  # one of the classes it shows
    prompt: Optional[str]  # a substring of its prompt
    since: Optional[datetime]  # created then or later
    until: Optional[datetime]  # created before


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how to read its response."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Optional[Mapping[str, Any]] = None
    files: Optional[Mapping[str, bytes]] = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    accepts: FrozenSet[int] = frozenset()  # statuses of errors that are answers
    is_repeatable: bool = True  # whether it may be retried when it is unknown whether it arrived
    is_stream: bool = False  # whether its response is a stream of events
    quiet_s: Optional[float] = None  # read timeout of a stream; as the service's heartbeat requires, if None

    def decode(self, response: httpx.Response) -> T:
        """Decode a successful response.

        Raises:
            UnexpectedAnswer: it isn't what the service responds.
        """
        try:
            return self.read(response)
        except (KeyError, TypeError, ValueError) as error:
            raise UnexpectedAnswer(
                title="Unexpected answer",
                detail=f"{self.method} {response.url} was answered with what can't be read ({error!r}). "
                "Is it the service, and of the same age as this client?",
                status=response.status_code,
                request_id=response.headers.get("x-request-id", ""),
            ) from error


def creation(path: str, body: Mapping[str, Any]) -> Call[Accepted]:
    """Return the call that submits jobs, to which the service responds at once."""
    headers = {**RESPOND_ASYNC, **idempotency_header()}
    return Call(method="POST", path=path, read=read_accepted, json=without_none(body), headers=headers)


def creation_of_edits(
    image_id: str,
    *,
    mask: Optional[bytes],
    region: Optional[int],
    concept: Optional[str],
    points: Sequence[Point],
    box: Optional[BoxPrompt],
    **body: Any,
) -> Call[Accepted]:
    """Return the call that submits edits of a part of an image."""
    area = {"mask": None if mask is None else b64encode(mask).decode(), "region": region, "concept": concept}
    return creation(f"/v1/images/{image_id}/edits", {**body, **area, **prompt_fields(points, box)})


def prompt_fields(points: Sequence[Point], box: Optional[BoxPrompt]) -> Dict[str, Any]:
    """Return the fields of a body with points and a box; those that are left out are None."""
    marked = [{"x": x, "y": y, "inside": inside[0] if inside else True} for x, y, *inside in points]
    return {"points": marked or None, "box": box}


def idempotency_header() -> Dict[str, str]:
    """Return a header with a new key, which all attempts of a call share."""
    return {"Idempotency-Key": secrets.token_urlsafe(18)}


def without_none(values: Mapping[str, Any]) -> Dict[str, Any]:
    """Leave out what the service has defaults for."""
    return {name: value for name, value in values.items() if value is not None}


def query_parameters(values: Mapping[str, Any]) -> Dict[str, Any]:
    """Format the timestamps among query parameters, and leave out what is None."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in without_none(values).items()
    }


def read_as(kind: Type[T]) -> Callable[[httpx.Response], T]:
    """Return what decodes a response as one record."""
    return lambda response: decoded(kind, response.json())


def read_page(read_item: Callable[[Any], T], *names: str) -> Callable[[httpx.Response], Page[T]]:
    """Return what decodes a page of a list.

    Args:
        read_item: decodes an item.
        names: older names of its `data`.
    """

    def read(response: httpx.Response) -> Page[T]:
        payload = response.json()
        return Page(items=tuple(read_item(item) for item in items_of(payload, *names)), next=payload.get("next"))

    return read


def items_of(payload: Mapping[str, Any], *names: str) -> Any:
    """Return the items of a list's payload.

    Args:
        payload: the JSON object.
        names: older names of its `data`.
    """
    return payload[next((name for name in ("data", *names) if name in payload), "data")]


def read_accepted(response: httpx.Response) -> Accepted:
    """Decode the jobs that a request submitted."""
    payload = response.json()
    jobs = tuple(decoded(Job, job) for job in items_of(payload, "jobs"))
    return Accepted(request_id=payload["request_id"], jobs=jobs)


def segments_in(payload: Mapping[str, Any]) -> Tuple[Segment, ...]:
    """Decode a list of segments."""
    return tuple(decoded(Segment, segment) for segment in payload["segments"])


def embeddings(texts: Sequence[str], image_ids: Sequence[str]) -> Call[Tuple[Tuple[float, ...], ...]]:
    """Return the call that embeds texts and images."""
    inputs = [*texts, *({"image_id": image_id} for image_id in image_ids)]
    body = {"input": inputs, "encoding_format": "base64"}
    return Call(method="POST", path="/v1/embeddings", read=read_vectors, json=body)


def read_vectors(response: httpx.Response) -> Tuple[Tuple[float, ...], ...]:
    """Decode embeddings, each base64 of little-endian float32."""
    vectors = (b64decode(row["embedding"]) for row in response.json()["data"])
    return tuple(struct.unpack(f"<{len(data) // struct.calcsize('<f')}f", data) for data in vectors)


def id_of(thing: Any, kind: str) -> str:
    """Return the id of an object of the service, or the id itself.

    Args:
        thing: an id, or an object with the attribute `<kind>_id`.
        kind: such as "image".

    Raises:
        TypeError: it is neither.
    """
    found = thing if isinstance(thing, str) else getattr(thing, f"{kind}_id", None)
    if not isinstance(found, str) or not found:
        raise TypeError(f"{thing!r:.80} has no {kind}_id: pass the {kind}, or its id.")
    return quote(found, safe="")


def number_of_images(n: Optional[int], seed: Optional[int], seeds: Optional[Sequence[int]]) -> Dict[str, Any]:
    """Return the fields of a body with the number of images and their seeds.

    Raises:
        ValueError: neither their number nor their seeds are given, or both.
    """
    if seeds is None and n is None:
        raise ValueError("Pass n, the number of images, or seeds, one for each.")
    if seeds is None:
        return {"n": n, "seed": seed}
    if seed is not None or n not in (None, 1, len(seeds)):
        raise ValueError("Pass seeds, or n and seed.")
    return {"seeds": list(seeds)}


def parameters(
    negative_prompt: Optional[str],
    steps: Optional[int],
    guidance: Optional[float],
    scheduler: Optional[str],
    deterministic: Optional[bool],
    metadata: Optional[Mapping[str, str]],
    tags: Optional[Sequence[str]],
) -> Dict[str, Any]:
    """Return the fields that every creation of images takes."""
    return {
        "negative_prompt": negative_prompt,
        "steps": steps,
        "guidance": guidance,
        "scheduler": scheduler,
        "deterministic": deterministic,
        "metadata": None if metadata is None else dict(metadata),
        "tags": None if tags is None else list(tags),
    }
