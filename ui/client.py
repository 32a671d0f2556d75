"""The HTTP API as the dashboard uses it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
from httpx_sse import ServerSentEvent, aconnect_sse

SESSION_HEADER = "X-Session-ID"
FINISHED = "generation.finished"
ANSWER_WITHIN_S = 330.0  # a little longer than the service's own deadline
CONNECT_WITHIN_S = 5.0
RESUME_WITHIN_S = 120.0  # of a stream that broke off
RESUME_PAUSE_S = 0.5

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
        api_key: for a service that wants one.
    """

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None, api_key: str | None = None) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            transport=transport,
            timeout=httpx.Timeout(ANSWER_WITHIN_S, connect=CONNECT_WITHIN_S),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        )

    async def about(self) -> Answer:
        """Ask what the service computes on, and for the profile's defaults and limits."""
        return await self._json("GET", "/")

    async def generate(self, session: str, parameters: Answer) -> AsyncGenerator[ServerSentEvent, None]:
        """Make an image; yields the events on the way, FINISHED with the answer last. Closing it cancels the job."""
        headers = {SESSION_HEADER: session, "Prefer": "respond-async", "Idempotency-Key": secrets.token_urlsafe(18)}
        job = await self._submit(parameters, headers)
        try:
            async for event in self._follow(job["url"]):
                yield event
        except (asyncio.CancelledError, GeneratorExit):
            with suppress(ServiceError):
                await asyncio.shield(self._call("POST", f"{job['url']}/cancel"))
            raise

    async def _submit(self, parameters: Answer, headers: dict[str, str]) -> Answer:
        """Submit a job; once more if who was asked is replaced meanwhile, which the key makes safe."""
        try:
            return await self._json("POST", "/generate", json=parameters, headers=headers)
        except ServiceError as error:
            if not isinstance(error.__cause__, httpx.ReadError | httpx.RemoteProtocolError):
                raise
        return await self._json("POST", "/generate", json=parameters, headers=headers)

    async def _follow(self, job_url: str) -> AsyncGenerator[ServerSentEvent, None]:
        """Follow a job to its end; whoever served the stream may be replaced meanwhile."""
        last_id, heard_at = "0", time.monotonic()
        while time.monotonic() - heard_at < RESUME_WITHIN_S:
            try:
                async with aconnect_sse(
                    self._http, "GET", f"{job_url}/events", headers={"Last-Event-ID": last_id}
                ) as source:
                    if source.response.is_server_error:
                        raise httpx.TransportError("not served just now")
                    if source.response.is_error:
                        await source.response.aread()
                        raise _error(source.response)
                    async for event in source.aiter_sse():
                        last_id, heard_at = event.id or last_id, time.monotonic()
                        if not event.data:
                            continue  # a heartbeat
                        if event.event == "error":
                            raise _problem(event.json())
                        yield event
                        if event.event == FINISHED:
                            return
                    heard_at = time.monotonic()  # it was served until now
            except httpx.TransportError:
                pass  # its end is known by FINISHED alone
            await asyncio.sleep(RESUME_PAUSE_S)
        detail = f"Nothing was heard of the job for {RESUME_WITHIN_S:g} s. It goes on: {job_url} says how."
        raise ServiceError(title="Broken off", detail=detail, request_id="")

    async def ask(self, path: str, session: str, body: Answer) -> Answer:
        """Call one of the origin's routes."""
        return await self._json("POST", path, json=body, headers={SESSION_HEADER: session})

    async def upload(self, session: str, data: bytes) -> Answer:
        """Send a picture of one's own."""
        return await self._json("POST", "/v1/images/upload", files={"file": data}, headers={SESSION_HEADER: session})

    async def history(self, limit: int) -> list[Answer]:
        """List images, newest first."""
        images: list[Answer] = (await self._json("GET", "/v1/images", params={"limit": limit}))["images"]
        return images

    async def image(self, image_id: str) -> Answer:
        """Ask how an image was made."""
        return await self._json("GET", f"/v1/images/{image_id}")

    async def content(self, image_id: str) -> bytes:
        """Get an image as PNG."""
        return (await self._call("GET", f"/v1/images/{image_id}/content")).content

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
