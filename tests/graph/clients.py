"""Both clients against the real HTTP application on a real port, so that one test asks each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sized
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from ai_pipeline_client import AsyncClient, Client, Progress, Retries
from graphs.http.app import build_http_app
from pipeline.events import RequestFinished
from pipeline.settings import Admission
from testing.harness import Bench, with_admission
from testing.waiting import until

AT_ONCE = Retries(first_pause_s=0.0)
ADMISSION = Admission(max_body_bytes=10_000, deadline_s=600)

Fault = Callable[[httpx.Request], "Exception | httpx.Response | int | None"]
"""What happens to a request: it never arrives, is answered by somebody else, loses its answer after so many bytes of
its stream, or nothing."""


@asynccontextmanager
async def served(app: ASGIApp, port: int = 0) -> AsyncIterator[str]:
    """Serve an application, on a port of its own if none is given; yields its URL."""
    config = uvicorn.Config(app, port=port, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.force_exit = True
    await server.shutdown()


class Awaited:
    """The client that blocks, in threads of its own."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        return lambda *args, **kwargs: asyncio.to_thread(method, *args, **kwargs)

    async def first(self, name: str, number: int | None = None, **kwargs: Any) -> list[Any]:
        """The first items of an iteration, or all."""
        return await asyncio.to_thread(lambda: list(islice(getattr(self.client, name)(**kwargs), number)))


class Awaitable(AsyncClient):
    """The client that doesn't block, with the same way to take from iterations."""

    async def first(self, name: str, number: int | None = None, **kwargs: Any) -> list[Any]:
        taken: list[Any] = []
        items = getattr(self, name)(**kwargs)
        while number is None or len(taken) < number:
            try:
                taken.append(await anext(items))
            except StopAsyncIteration:
                break
        await items.aclose()
        return taken


class InStep:
    """A gate for workers: no step is taken before the one before was told, so that none passes unheard.

    Args:
        told: what those who follow were told.
        several: whether images are made together, so that they follow everything after the first job's own stream.
    """

    def __init__(self, bench: Bench, told: Sized, *, several: bool = False) -> None:
        self._bench = bench
        self._told = told
        self._several = several

    async def wait(self) -> None:
        await until(lambda: self._is_begun() and len(self._told) >= self._bench.workers.steps)

    def _is_begun(self) -> bool:
        """Whether somebody follows, or has followed the first step."""
        if self._bench.workers.steps:
            return True
        ended = {request.route for request in self._bench.of(RequestFinished)}
        return self._bench.services.feed.num_streams == 1 and (not self._several or "/v1/jobs/{job_id}/events" in ended)


def steps_into(told: list[Progress]) -> Callable[[Progress], None]:
    """What takes note of steps, but not that images were accepted."""
    return lambda progress: told.append(progress) if progress.step else None


class Faulty(httpx.BaseTransport):
    """A network that does what `fault` says."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._network = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        fate = self._fault(request)
        if isinstance(fate, Exception):
            raise fate
        if isinstance(fate, httpx.Response):
            return fate
        answer = self._network.handle_request(request)
        return (
            answer
            if fate is None
            else httpx.Response(answer.status_code, headers=answer.headers, stream=_Broken(answer.stream, fate))
        )

    def close(self) -> None:
        self._network.close()


class AsyncFaulty(httpx.AsyncBaseTransport):
    """A network that does what `fault` says."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._network = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        fate = self._fault(request)
        if isinstance(fate, Exception):
            raise fate
        if isinstance(fate, httpx.Response):
            return fate
        answer = await self._network.handle_async_request(request)
        return (
            answer
            if fate is None
            else httpx.Response(answer.status_code, headers=answer.headers, stream=_Broken(answer.stream, fate))
        )

    async def aclose(self) -> None:
        await self._network.aclose()


class _Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """An answer's body that breaks off after so many bytes."""

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
    """One of the clients, which pauses for nothing, over a network with a fault."""
    options = {"retries": AT_ONCE, **options}
    if kind == "Client":
        with Client(url, transport=Faulty(fault) if fault else None, **options) as client:
            yield Awaited(client)
    else:
        async with Awaitable(url, transport=AsyncFaulty(fault) if fault else None, **options) as client:
            yield client


def client_of(bench: Bench, admission: Admission = ADMISSION) -> httpx.AsyncClient:
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
