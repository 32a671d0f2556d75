"""The asyncio client."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx
from httpx_sse import ServerSentEvent, aconnect_sse

from ai_pipeline_client import calls, listening, making
from ai_pipeline_client.acts import Act, Call, Close, Emit, Items, Pause, Play, Read, Request, Script, Tell
from ai_pipeline_client.connection import http_options, request_options, stream_timeout
from ai_pipeline_client.methods import documented
from ai_pipeline_client.retries import Retries, sending

P = ParamSpec("P")
T = TypeVar("T")


def _sends(description: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.send(description(*args, **kwargs))

    return documented(method, description, "{}")


def _runs(description: Callable[P, Script[T]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(description(*args, **kwargs))

    return documented(method, description, "{}")


def _iterates(description: Callable[P, Items[T]]) -> Callable[Concatenate[AsyncClient, P], AsyncGenerator[T, None]]:
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        return self._iterate(description(*args, **kwargs))

    return documented(method, description, "AsyncGenerator[{}, None]")


class AsyncClient:
    """An asyncio client of the service. Close it, or use it in an `async with`.

    Its methods are those of `Client`, as coroutines or async generators; an `on_progress` may be a coroutine function.
    To leave an iteration early, use `contextlib.aclosing`.

    Args:
        server: the service's URL.
        api_key: for a service that requires one.
        session: id of the session whose last image each new one becomes; the client's own if left out.
        retries: the retry policy.
        transport: httpx transport; the network if left out.
    """

    def __init__(
        self,
        server: str,
        *,
        api_key: str | None = None,
        session: str | None = None,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(transport=transport, **http_options(server, api_key))
        self._session = session
        self._retries = retries or Retries()
        self._cleanups: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close its connections, once the jobs of cancelled tasks are cancelled."""
        if self._cleanups:
            await asyncio.wait(self._cleanups)
        await self._http.aclose()

    def in_session(self, session: str) -> Self:
        """Return the same client, its connections shared, in another session."""
        other = copy.copy(self)
        other._session = session
        return other

    async def send(self, call: Call[T]) -> T:
        """Send a call described by `calls`."""
        return await self._run(sending(call, self._retries))

    about = _sends(calls.about)
    generate = _runs(making.generate)
    create = _sends(calls.create)
    variations = _runs(making.variations)
    create_variations = _sends(calls.create_variations)
    edits = _runs(making.edits)
    create_edits = _sends(calls.create_edits)
    wait = _runs(making.wait)
    upload = _sends(calls.upload)
    images = _sends(calls.images)
    every_image = _iterates(making.every_image)
    image = _sends(calls.image)
    content = _sends(calls.content)
    delete = _sends(calls.delete)
    analysis = _sends(calls.analysis)
    segments = _sends(calls.segments)
    coco = _sends(calls.coco)
    find = _sends(calls.find)
    cut_out = _sends(calls.cut_out)
    region = _sends(calls.region)
    probe = _sends(calls.probe)
    overlay = _sends(calls.overlay)
    spotlight = _sends(calls.spotlight)
    visualize = _sends(calls.visualize)
    embed = _sends(calls.embed)
    jobs = _sends(calls.jobs)
    every_job = _iterates(making.every_job)
    job = _sends(calls.job)
    cancel = _sends(calls.cancel)
    retry = _sends(calls.retry)
    follow = _iterates(listening.follow)
    events = _iterates(listening.events)

    async def _run(self, script: Script[T]) -> T:
        async with _Stream(self._http) as stream:
            return await self._play(Play(script), stream)

    async def _iterate(self, items: Items[T]) -> AsyncGenerator[T, None]:
        async with _Stream(self._http) as stream:
            play = Play(items.script)
            while play.act is not None:
                if isinstance(play.act, Emit):
                    yield play.act.item
                await self._advance(play, play.act, stream)

    async def _play(self, play: Play[T], stream: _Stream) -> T:
        while play.act is not None:
            await self._advance(play, play.act, stream)
        return play.result

    async def _advance(self, play: Play[T], act: Act, stream: _Stream) -> None:
        try:
            result = await self._do(act, stream)
        except asyncio.CancelledError as cancelled:
            play.fail(cancelled)  # raises, unless there are jobs to cancel
            cleanup = asyncio.create_task(self._play(play, stream))  # not cancelled with the caller
            self._cleanups.add(cleanup)
            cleanup.add_done_callback(self._cleanups.discard)
            await asyncio.shield(cleanup)
        except BaseException as error:
            play.fail(error)
        else:
            play.go_on(result)

    async def _do(self, act: Act, stream: _Stream) -> Any:
        match act:
            case Call():
                return await self._play(Play(sending(act, self._retries)), stream)
            case Request(call=call) if call.is_stream:
                return await stream.open(call, self._session)
            case Request(call=call):
                return await self._http.request(call.method, call.path, **request_options(call, self._session))
            case Read():
                return await anext(stream.events, None)
            case Close():
                await stream.close()
            case Pause(seconds=seconds):
                await asyncio.sleep(seconds)
            case Tell(callback=callback, progress=progress):
                returned = callback(progress)
                if inspect.isawaitable(returned):
                    await returned
        return None


class _Stream:
    """The event stream of a script, which has at most one open."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._stack = AsyncExitStack()
        self.events: AsyncIterator[ServerSentEvent] = _no_events()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, call: Call[Any], session: str | None) -> httpx.Response:
        await self.close()
        options = request_options(call, session) | {"timeout": stream_timeout(call)}
        source = await self._stack.enter_async_context(aconnect_sse(self._http, call.method, call.path, **options))
        if source.response.is_error:
            await source.response.aread()
        self.events = source.aiter_sse()
        return source.response

    async def close(self) -> None:
        await self._stack.aclose()
        self.events = _no_events()


async def _no_events() -> AsyncIterator[ServerSentEvent]:
    return
    yield
