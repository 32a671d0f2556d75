"""Helpers to run one test with the blocking and the asyncio client against the HTTP application on a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sized
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice
from operator import attrgetter
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from ai_pipeline_client import AsyncClient, Client, Image, Page, Progress, Region, Retries
from ai_pipeline_client.blocking.events import Events
from ai_pipeline_client.blocking.images import Images
from ai_pipeline_client.blocking.jobs import Jobs
from ai_pipeline_client.blocking.keys import Keys
from ai_pipeline_client.blocking.models import Models
from ai_pipeline_client.blocking.webhooks import Webhooks
from graphs.http.app import build_http_app
from pipeline.events import RequestFinished
from pipeline.settings import AdmissionSettings
from testing.harness import Bench, with_admission
from testing.waiting import until

PARTS = (Events, Images, Jobs, Keys, Models, Webhooks)  # of the blocking client
AT_ONCE = Retries(first_pause_s=0.0)
ADMISSION = AdmissionSettings(max_body_bytes=10_000, deadline_s=600)

Fault = Callable[[httpx.Request], "Exception | httpx.Response | int | None"]
"""The fault of a request: an exception raised instead, a response returned instead, a response body cut off after so
many bytes, or None."""


@asynccontextmanager
async def served(app: ASGIApp, port: int = 0) -> AsyncIterator[str]:
    """Serve an application, on a free port if none is given; yield its URL."""
    config = uvicorn.Config(app, port=port, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.force_exit = True
    await server.shutdown()


class Awaited:
    """The blocking client, a part of it, or an object bound to it: each method runs in a thread."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.target, name)
        if isinstance(value, PARTS):
            return Awaited(value)
        return _in_thread(value) if callable(value) else value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _in_thread(self.target)(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return bool(self.target == _blocking(other))

    def __hash__(self) -> int:
        return hash(self.target)

    async def first(self, name: str, number: int | None = None, *args: Any, **kwargs: Any) -> list[Any]:
        """Return the first items of an iterator, or all; the name may be one such as `images.list`."""
        items = attrgetter(name)(self.target)
        taken = await asyncio.to_thread(lambda: list(islice(items(*_blocking(args), **_blocking(kwargs)), number)))
        return [_awaited(item) for item in taken]


def _in_thread(method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        return _awaited(await asyncio.to_thread(method, *_blocking(args), **_blocking(kwargs)))

    return call


def _awaited(value: Any) -> Any:
    """Wrap the objects of a result that are bound to a blocking client."""
    if isinstance(value, (Image, Region)):
        return Awaited(value)
    if isinstance(value, Page):
        return replace(value, items=_awaited(value.items))
    return type(value)(map(_awaited, value)) if type(value) in (list, tuple) else value


def _blocking(value: Any) -> Any:
    """Unwrap the objects among arguments."""
    if isinstance(value, Awaited):
        return value.target
    if type(value) is dict:
        return {name: _blocking(item) for name, item in value.items()}
    return type(value)(map(_blocking, value)) if type(value) in (list, tuple) else value


class Awaitable(AsyncClient):
    """The asyncio client, with the same `first`."""

    async def first(self, name: str, number: int | None = None, *args: Any, **kwargs: Any) -> list[Any]:
        taken: list[Any] = []
        items = attrgetter(name)(self)(*args, **kwargs)
        while number is None or len(taken) < number:
            try:
                taken.append(await anext(items))
            except StopAsyncIteration:
                break
        await items.aclose()
        return taken


class InStep:
    """A gate for workers: a step starts only when the previous one was reported, so that no event is dropped.

    Args:
        reported: the steps that subscribers received.
        several: whether several images are generated, so that the client subscribes to all events after the first
            job's own stream.
    """

    def __init__(self, bench: Bench, reported: Sized, *, several: bool = False) -> None:
        self._bench = bench
        self._reported = reported
        self._several = several

    async def wait(self) -> None:
        await until(lambda: self._is_begun() and len(self._reported) >= self._bench.workers.steps)

    def _is_begun(self) -> bool:
        """Return whether a client has subscribed, or the first step is done."""
        if self._bench.workers.steps:
            return True
        ended = {request.route for request in self._bench.of(RequestFinished)}
        return self._bench.services.feed.num_streams == 1 and (not self._several or "/v1/jobs/{job_id}/events" in ended)


def steps_into(reported: list[Progress]) -> Callable[[Progress], None]:
    """Return a callback that records steps, but not that images were accepted."""
    return lambda progress: reported.append(progress) if progress.step else None


class Faulty(httpx.BaseTransport):
    """A transport that injects faults."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._transport = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        injected = self._fault(request)
        if isinstance(injected, Exception):
            raise injected
        if isinstance(injected, httpx.Response):
            return injected
        response = self._transport.handle_request(request)
        return (
            response
            if injected is None
            else httpx.Response(
                response.status_code, headers=response.headers, stream=_Broken(response.stream, injected)
            )
        )

    def close(self) -> None:
        self._transport.close()


class AsyncFaulty(httpx.AsyncBaseTransport):
    """A transport that injects faults."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._transport = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        injected = self._fault(request)
        if isinstance(injected, Exception):
            raise injected
        if isinstance(injected, httpx.Response):
            return injected
        response = await self._transport.handle_async_request(request)
        return (
            response
            if injected is None
            else httpx.Response(
                response.status_code, headers=response.headers, stream=_Broken(response.stream, injected)
            )
        )

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A response body that breaks off after so many bytes."""

    def __init__(self, stream: Any, num_bytes: int) -> None:
        self._stream = stream
        self._left = num_bytes

    def __iter__(self):
        for chunk in self._stream:
            yield self._cut(chunk)

    async def __aiter__(self):
        async for chunk in self._stream:
            yield self._cut(chunk)

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def _cut(self, chunk: bytes) -> bytes:
        if self._left <= 0:
            raise httpx.ReadError("the line is dead")
        self._left -= len(chunk)
        return chunk


@asynccontextmanager
async def client_at(url: str, kind: str, fault: Fault | None = None, **options: Any) -> AsyncIterator[Any]:
    """Yield one of the clients, which retries without a pause, over a transport that injects faults."""
    options = {"retries": AT_ONCE, **options}
    if kind == "Client":
        with Client(url, transport=Faulty(fault) if fault else None, **options) as client:
            yield Awaited(client)
    else:
        async with Awaitable(url, transport=AsyncFaulty(fault) if fault else None, **options) as client:
            yield client


def client_of(bench: Bench, admission: AdmissionSettings = ADMISSION) -> httpx.AsyncClient:
    app = build_http_app(with_admission(bench, admission))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def is_problem(response: httpx.Response, status: int, code: str) -> bool:
    body = response.json()
    return (
        response.status_code == body["status"] == status
        and response.headers["content-type"] == "application/problem+json"
        and body["code"] == code
        and body["detail"] != ""
        and body["title"] != ""
        and body["type"].startswith("urn:")
        and body["request_id"] == response.headers["x-request-id"]
    )
