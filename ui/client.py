"""The HTTP API as the dashboard uses it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import httpx
from httpx_sse import ServerSentEvent, aconnect_sse

SESSION_HEADER = "X-Session-ID"
FINISHED = "generation.finished"
ANSWER_WITHIN_S = 330.0  # a little longer than the service's own deadline
CONNECT_WITHIN_S = 5.0

Answer = dict[str, Any]  # a JSON object of the API


@dataclass(kw_only=True, eq=False)
class ServiceError(Exception):
    """The service refused a call, failed, or did not answer."""

    title: str
    detail: str
    request_id: str  # empty where nothing answered


class PipelineClient:
    """Calls the service; every method raises `ServiceError`.

    Args:
        url: where the service is.
        transport: how it is reached; the network if left out.
    """

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = httpx.AsyncClient(
            base_url=url, transport=transport, timeout=httpx.Timeout(ANSWER_WITHIN_S, connect=CONNECT_WITHIN_S)
        )

    async def about(self) -> Answer:
        """Ask what the service computes on, and for the profile's defaults and limits."""
        return await self._json("GET", "/")

    async def generate(self, session: str, parameters: Answer) -> AsyncGenerator[ServerSentEvent, None]:
        """Make an image; yields the events on the way, FINISHED with the answer last."""
        headers = {SESSION_HEADER: session}
        event = None
        try:
            async with aconnect_sse(self._http, "POST", "/generate", json=parameters, headers=headers) as source:
                if source.response.is_error:
                    await source.response.aread()
                    raise _error(source.response)
                async for event in source.aiter_sse():
                    if event.event == "error":
                        raise _problem(event.json())
                    yield event
        except httpx.TransportError as error:
            if event is None:
                raise self._unreachable() from error
        if event is None or event.event != FINISHED:
            raise ServiceError(title="Broken off", detail="The service ended before the image was made.", request_id="")

    async def ask(self, path: str, session: str, body: Answer) -> Answer:
        """Call one of the origin's routes."""
        return await self._json("POST", path, json=body, headers={SESSION_HEADER: session})

    async def upload(self, session: str, data: bytes) -> Answer:
        """Send a picture of one's own."""
        return await self._json("POST", "/images", files={"file": data}, headers={SESSION_HEADER: session})

    async def history(self, limit: int) -> list[Answer]:
        """List images, newest first."""
        images: list[Answer] = (await self._json("GET", "/images", params={"limit": limit}))["images"]
        return images

    async def image(self, image_id: str) -> Answer:
        """Ask how an image was made."""
        return await self._json("GET", f"/images/{image_id}")

    async def content(self, image_id: str) -> bytes:
        """Get an image as PNG."""
        return (await self._call("GET", f"/images/{image_id}/content")).content

    async def _json(self, method: str, path: str, **options: Any) -> Answer:
        answer: Answer = (await self._call(method, path, **options)).json()
        return answer

    async def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = await self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise self._unreachable() from error
        if response.is_error:
            raise _error(response)
        return response

    def _unreachable(self) -> ServiceError:
        detail = f"Nothing answers at {self._http.base_url}. Is the service running?"
        return ServiceError(title="No connection", detail=detail, request_id="")


def _error(response: httpx.Response) -> ServiceError:
    if "json" in response.headers.get("content-type", ""):
        return _problem(response.json())
    return ServiceError(  # the proxy's own answers are plain text
        title=response.reason_phrase, detail=response.text, request_id=response.headers.get("x-request-id", "")
    )


def _problem(problem: Answer) -> ServiceError:
    return ServiceError(title=problem["title"], detail=problem["detail"], request_id=problem["request_id"])
