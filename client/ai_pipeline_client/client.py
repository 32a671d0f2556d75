# Generated from async_client.py by scripts/write_client.py: do not edit.
"""The client: where the service is, and the parts of its API."""

# client.py is generated from this file: python -m scripts.write_client

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Optional, TypeVar, Union

import httpx

from ai_pipeline_client import calls
from ai_pipeline_client.blocking.connection import Connection
from ai_pipeline_client.blocking.events import Events
from ai_pipeline_client.blocking.image import Image
from ai_pipeline_client.blocking.images import Images
from ai_pipeline_client.blocking.io import Http, Transport, pause
from ai_pipeline_client.blocking.jobs import Jobs
from ai_pipeline_client.blocking.keys import Keys
from ai_pipeline_client.blocking.legacy import FlatMethods
from ai_pipeline_client.blocking.models import Models
from ai_pipeline_client.blocking.webhooks import Webhooks
from ai_pipeline_client.calls import Call, id_of
from ai_pipeline_client.connection import Timeout, connection_options
from ai_pipeline_client.decoding import decoded
from ai_pipeline_client.errors import ConnectionFailed, NotFound, ServiceUnavailable, UnexpectedAnswer
from ai_pipeline_client.errors import Timeout as NotInTime
from ai_pipeline_client.results import About, Me, Readiness
from ai_pipeline_client.retries import Retries
from ai_pipeline_client.vectors import Vectors

T = TypeVar("T")
C = TypeVar("C", bound="Client")

READY_POLL_S = 0.5
READINESS = Call(
    method="GET", path="/readyz", read=calls.read_as(Readiness), accepts=frozenset({httpx.codes.SERVICE_UNAVAILABLE})
)


class Client(FlatMethods):
    """A client of the service: `AsyncClient` for asyncio, or `Client`, which blocks and is thread-safe.

    Close it, or use it in a `with`; `AsyncClient` in an `async with`. Every method raises `PipelineError`. Transient
    failures are retried, see `Retries`; a call that creates something is sent with an Idempotency-Key of its own, so
    that a retry does nothing twice. An `on_progress` of `AsyncClient` may be a coroutine function. To leave one of its
    iterations early, use `contextlib.aclosing`.

    Args:
        server: the service's URL; `http://` may be left out. If None, that of the environment variable
            `AI_PIPELINE_URL` (formerly `PIPELINE_SERVER`), else http://127.0.0.1:8000.
        api_key: for a service that requires one; that of `AI_PIPELINE_API_KEY` (formerly `PIPELINE_API_KEY`) if None.
        session: id of the session whose last image each new one becomes; the client's own if None.
        timeout: of a request, in seconds, or httpx's object; a little more than the service's own deadline if None.
        max_retries: of a request; 4 if None.
        retries: the whole retry policy, instead of `max_retries`.
        headers: further headers of every request.
        http_client: an httpx client to send with, which isn't closed with this one.
        transport: httpx transport, instead of `http_client`; the network if None.

    Raises:
        ValueError: the server is no http URL, or two arguments exclude each other.
    """

    def __init__(
        self,
        server: Optional[str] = None,
        *,
        api_key: Optional[str] = None,
        session: Optional[str] = None,
        timeout: Optional[Timeout] = None,
        max_retries: Optional[int] = None,
        retries: Optional[Retries] = None,
        headers: Optional[Mapping[str, str]] = None,
        http_client: Optional[Http] = None,
        transport: Optional[Transport] = None,
    ) -> None:
        if http_client is not None and transport is not None:
            raise ValueError("Pass http_client or transport, not both.")
        options = connection_options(
            server,
            api_key=api_key,
            timeout=timeout,
            max_retries=max_retries,
            retries=retries,
            headers=headers,
            has_own_timeout=http_client is not None,
        )
        self._connection = Connection(options, session, http_client, transport)

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection.server!r})"

    def close(self) -> None:
        """Close its connections, once the jobs of cancelled tasks are cancelled."""
        self._connection.close()

    def in_session(self: C, session: str) -> C:
        """Return the same client, its connections shared, in another session."""
        other = copy.copy(self)
        other._connection = self._connection.in_session(session)
        return other

    @property
    def images(self) -> Images:
        """Your images: generate, upload, get, list, update, delete."""
        return Images(self._connection)

    @property
    def jobs(self) -> Jobs:
        """Your jobs: get, list, cancel, retry, wait, stream."""
        return Jobs(self._connection)

    @property
    def events(self) -> Events:
        """The events of your images and jobs: stream, list."""
        return Events(self._connection)

    @property
    def webhooks(self) -> Webhooks:
        """Your webhooks, and their deliveries."""
        return Webhooks(self._connection)

    @property
    def keys(self) -> Keys:
        """Your API keys: create, list, delete."""
        return Keys(self._connection)

    @property
    def models(self) -> Models:
        """The service's models: list, get."""
        return Models(self._connection)

    def embeddings(self, *, texts: Sequence[str] = (), images: Sequence[Union[Image, str]] = ()) -> Vectors:
        """Embed texts and images with CLIP.

        Args:
            texts: the texts.
            images: the images, or their ids.

        Returns:
            Vectors of unit norm, those of the texts first; `numpy.asarray` makes an array (n, d) of them.
        """
        image_ids = [id_of(image, "image") for image in images]
        vectors = self.send(calls.embeddings(texts, image_ids))
        return Vectors(vectors)

    def about(self) -> About:
        """Get the service's status and device, and the profile's defaults and limits."""
        return self._connection.get("/", partial(decoded, About))

    def me(self) -> Me:
        """Get the owner and the API key of this client, with the owner's limits and usage."""
        return self._connection.get("/v1/me", partial(decoded, Me))

    def ready(self) -> Readiness:
        """Get whether the service is ready, which is true if every model is loaded, and why models aren't."""
        return self.send(READINESS)

    def wait_until_ready(self, timeout: float = 300.0) -> None:
        """Wait until the service is reachable, and every model is loaded.

        Args:
            timeout: in seconds.

        Raises:
            Timeout: it isn't ready in time; says why.
        """
        deadline, once = time.monotonic() + timeout, self._connection.with_retries(Retries(attempts=1))
        while True:
            try:
                readiness = once.send(READINESS)
            except (ConnectionFailed, NotFound, ServiceUnavailable, UnexpectedAnswer) as error:  # as a proxy responds
                why = error.detail
            else:
                if readiness:
                    return
                why = " ".join(f"The {name} model is not ready: {reason}" for name, reason in readiness.missing.items())
            if time.monotonic() > deadline:
                raise NotInTime(title="Not ready", detail=f"The service isn't ready after {timeout:g} s. {why}")
            pause(READY_POLL_S)

    def send(self, call: Call[T]) -> T:
        """Send a call, with retries, and decode its response."""
        return self._connection.send(call)
