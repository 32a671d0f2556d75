"""A call of the HTTP API as data: the request, and how to decode its response. Nothing is sent here."""

from __future__ import annotations

import secrets
import struct
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypedDict, TypeVar

import httpx

from ai_pipeline_client.decoding import decoded
from ai_pipeline_client.errors import UnexpectedAnswer
from ai_pipeline_client.results import Accepted, Page, Segment

T = TypeVar("T")

Point = tuple[float, float] | tuple[float, float, bool]  # x and y in pixels, and whether it lies inside, by default
MaskForm = Literal["polygons", "rle", "png"]

RESPOND_ASYNC = {"Prefer": "respond-async"}  # RFC 7240


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[T]):
    """A request, and how to read its response."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    files: Mapping[str, bytes] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True  # whether it may be retried when it is unknown whether it arrived
    is_stream: bool = False  # whether its response is a stream of events
    quiet_s: float | None = None  # read timeout of a stream; as the service's heartbeat requires, if None

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
    headers = RESPOND_ASYNC | idempotency_header()
    return Call(method="POST", path=path, read=read_as(Accepted), json=without_none(body), headers=headers)


def creation_of_edits(
    image_id: str,
    *,
    mask: bytes | None,
    region: int | None,
    concept: str | None,
    points: Sequence[Point],
    box: tuple[float, float, float, float] | None,
    **body: Any,
) -> Call[Accepted]:
    """Return the call that submits edits of a part of an image."""
    area = {"mask": None if mask is None else b64encode(mask).decode(), "region": region, "concept": concept}
    return creation(f"/v1/images/{image_id}/edits", {**body, **area, **prompt_fields(points, box)})


def prompt_fields(points: Sequence[Point], box: tuple[float, float, float, float] | None) -> dict[str, Any]:
    """Return the fields of a body with points and a box; those that are left out are None."""
    marked = [{"x": x, "y": y, "inside": inside[0] if inside else True} for x, y, *inside in points]
    return {"points": marked or None, "box": box}


def idempotency_header() -> dict[str, str]:
    """Return a header with a new key, which all attempts of a call share."""
    return {"Idempotency-Key": secrets.token_urlsafe(18)}


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the service has defaults for."""
    return {name: value for name, value in values.items() if value is not None}


def query_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Format the timestamps among query parameters, and leave out what is None."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in without_none(values).items()
    }


def read_as(kind: type[T]) -> Callable[[httpx.Response], T]:
    """Return what decodes a response as one record."""
    return lambda response: decoded(kind, response.json())


def read_page(kind: type[T], name: str) -> Callable[[httpx.Response], Page[T]]:
    """Return what decodes a page of the records under `name`."""

    def read(response: httpx.Response) -> Page[T]:
        payload = response.json()
        return Page(items=tuple(decoded(kind, item) for item in payload[name]), next=payload["next"])

    return read


def read_segments(response: httpx.Response) -> tuple[Segment, ...]:
    """Decode a list of segments."""
    return tuple(decoded(Segment, segment) for segment in response.json()["segments"])


def read_vectors(response: httpx.Response) -> tuple[tuple[float, ...], ...]:
    """Decode embeddings, each base64 of little-endian float32."""
    vectors = (b64decode(row["embedding"]) for row in response.json()["data"])
    return tuple(struct.unpack(f"<{len(data) // struct.calcsize('<f')}f", data) for data in vectors)
