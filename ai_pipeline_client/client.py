"""The blocking client."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx
from httpx_sse import ServerSentEvent, connect_sse

from ai_pipeline_client import calls, listening, making
from ai_pipeline_client.acts import Act, Call, Close, Emit, Items, Pause, Play, Read, Request, Script, Tell
from ai_pipeline_client.connection import http_options, request_options, stream_timeout
from ai_pipeline_client.methods import documented
from ai_pipeline_client.retries import Retries, sending

P = ParamSpec("P")
T = TypeVar("T")


def _sends(description: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.send(description(*args, **kwargs))

    return documented(method, description, "{}")


def _runs(description: Callable[P, Script[T]]) -> Callable[Concatenate[Client, P], T]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(description(*args, **kwargs))

    return documented(method, description, "{}")


def _iterates(description: Callable[P, Items[T]]) -> Callable[Concatenate[Client, P], Generator[T, None, None]]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        return self._iterate(description(*args, **kwargs))

    return documented(method, description, "Generator[{}, None, None]")


class Client:
    """A blocking client of the service. Close it, or use it in a `with`.

    Every method raises `PipelineError`. Transient failures are retried, see `Retries`; a call that creates something
    is sent with an Idempotency-Key of its own, so that a retry does nothing twice. Thread-safe.

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(transport=transport, **http_options(server, api_key))
        self._session = session
        self._retries = retries or Retries()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def in_session(self, session: str) -> Self:
        """Return the same client, its connections shared, in another session."""
        other = copy.copy(self)
        other._session = session
        return other

    def send(self, call: Call[T]) -> T:
        """Send a call described by `calls`."""
        return self._run(sending(call, self._retries))

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

    def _run(self, script: Script[T]) -> T:
        with _Stream(self._http) as stream:
            return self._play(script, stream)

    def _iterate(self, items: Items[T]) -> Generator[T, None, None]:
        with _Stream(self._http) as stream:
            play = Play(items.script)
            while play.act is not None:
                if isinstance(play.act, Emit):
                    yield play.act.item
                self._advance(play, play.act, stream)

    def _play(self, script: Script[T], stream: _Stream) -> T:
        play = Play(script)
        while play.act is not None:
            self._advance(play, play.act, stream)
        return play.result

    def _advance(self, play: Play[T], act: Act, stream: _Stream) -> None:
        try:
            result = self._do(act, stream)
        except BaseException as error:  # KeyboardInterrupt as well: the script may have jobs to cancel
            play.fail(error)
        else:
            play.go_on(result)

    def _do(self, act: Act, stream: _Stream) -> Any:
        match act:
            case Call():
                return self._play(sending(act, self._retries), stream)
            case Request(call=call) if call.is_stream:
                return stream.open(call, self._session)
            case Request(call=call):
                return self._http.request(call.method, call.path, **request_options(call, self._session))
            case Read():
                return next(stream.events, None)
            case Close():
                stream.close()
            case Pause(seconds=seconds):
                time.sleep(seconds)
            case Tell(callback=callback, progress=progress):
                callback(progress)
        return None


class _Stream:
    """The event stream of a script, which has at most one open."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._stack = ExitStack()
        self.events: Iterator[ServerSentEvent] = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, call: Call[Any], session: str | None) -> httpx.Response:
        self.close()
        options = request_options(call, session) | {"timeout": stream_timeout(call)}
        source = self._stack.enter_context(connect_sse(self._http, call.method, call.path, **options))
        if source.response.is_error:
            source.response.read()
        self.events = source.iter_sse()
        return source.response

    def close(self) -> None:
        self._stack.close()
        self.events = iter(())
