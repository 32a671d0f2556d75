"""Where the service is, and the options of httpx, for both clients."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Dict, Optional, Union

import httpx

from ai_pipeline_client.calls import Call
from ai_pipeline_client.retries import ANSWER_WITHIN_S, Retries

DEFAULT_SERVER = "http://127.0.0.1:8000"
SERVER_VARIABLES = ("AI_PIPELINE_URL", "PIPELINE_SERVER")  # the older name last
API_KEY_VARIABLES = ("AI_PIPELINE_API_KEY", "PIPELINE_API_KEY")
SESSION_HEADER = "X-Session-ID"
CONNECT_WITHIN_S = 5.0
MAX_PORT = 65535
HEARTBEAT_WITHIN_S = 30.0  # of a stream: the service sends one every 10 s
DEFAULT_TIMEOUT = httpx.Timeout(ANSWER_WITHIN_S, connect=CONNECT_WITHIN_S)

Timeout = Union[float, httpx.Timeout]


def installed_version() -> str:
    """Return this distribution's version; `0+unknown` if it isn't installed."""
    try:
        return metadata.version("ai-pipeline-client")
    except metadata.PackageNotFoundError:
        return "0+unknown"


USER_AGENT = f"ai-pipeline-client/{installed_version()} python/{platform.python_version()}"


@dataclass(frozen=True)
class ConnectionOptions:
    """What every request of a client is sent with.

    Attributes:
        server: URL of the service, without a slash at the end.
        headers: of every request.
        timeout: of every request but those of streams; the httpx client's own if None.
        retries: the retry policy.
    """

    server: str
    headers: Mapping[str, str] = field(repr=False)
    timeout: Optional[Timeout]
    retries: Retries

    def request(self, call: Call[Any], session: Optional[str]) -> Dict[str, Any]:
        """Return the arguments of `build_request` of an httpx client."""
        own = {SESSION_HEADER: session} if session else {}
        arguments: Dict[str, Any] = {
            "method": call.method,
            "url": self.server + call.path,
            "params": call.params,
            "json": call.json,
            "files": call.files,
            "headers": {**self.headers, **own, **call.headers},
        }
        if call.is_stream:  # between events
            arguments["timeout"] = httpx.Timeout(call.quiet_s or HEARTBEAT_WITHIN_S, connect=CONNECT_WITHIN_S)
        elif self.timeout is not None:
            arguments["timeout"] = self.timeout
        return arguments


def connection_options(
    server: Optional[str],
    *,
    api_key: Optional[str],
    timeout: Optional[Timeout],
    max_retries: Optional[int],
    retries: Optional[Retries],
    headers: Optional[Mapping[str, str]],
    has_own_timeout: bool,
) -> ConnectionOptions:
    """Return the options of a connection, with those of the environment.

    Args:
        has_own_timeout: whether requests without a timeout get that of the httpx client.

    Raises:
        ValueError: the server is no http URL, or both retry options are given.
    """
    if retries is not None and max_retries is not None:
        raise ValueError("Pass max_retries or retries, not both.")
    if max_retries is not None and max_retries < 0:
        raise ValueError(f"max_retries is {max_retries}: pass 0 or more.")
    if max_retries is not None:
        retries = Retries(attempts=1 + max_retries)
    key = api_key or _environment(*API_KEY_VARIABLES)
    authorization = {"Authorization": f"Bearer {key}"} if key else {}
    return ConnectionOptions(
        server=server_url(server or _environment(*SERVER_VARIABLES) or DEFAULT_SERVER),
        headers={"User-Agent": USER_AGENT, **authorization, **(headers or {})},
        timeout=timeout if timeout is not None or has_own_timeout else DEFAULT_TIMEOUT,
        retries=retries or Retries(),
    )


def server_url(server: str) -> str:
    """Return the URL of a service, without a slash at the end; `http://` is added if it is left out.

    Raises:
        ValueError: it is no http URL.
    """
    text = server.strip()
    if "://" not in text:
        text = f"http://{text}"
    try:
        url = httpx.URL(text)
        port = url.port  # httpx checks it only when it is read
    except (httpx.InvalidURL, ValueError) as error:
        raise ValueError(f"{server!r} is no URL of a service ({error}). {_EXAMPLE}") from None
    if url.scheme not in ("http", "https"):
        raise ValueError(f"{server!r} is no URL of a service: it is of {url.scheme}. {_EXAMPLE}")
    if not url.host or any(character.isspace() for character in text):
        raise ValueError(f"{server!r} is no URL of a service: it names no host. {_EXAMPLE}")
    if port is not None and not 0 < port <= MAX_PORT:
        raise ValueError(f"{server!r} is no URL of a service: there is no port {port}. {_EXAMPLE}")
    if url.query or url.fragment:
        raise ValueError(f"{server!r} is no URL of a service: it has a query or a fragment. {_EXAMPLE}")
    return str(url).rstrip("/")


_EXAMPLE = f"Pass one such as {DEFAULT_SERVER}, or set {SERVER_VARIABLES[0]}."


def _environment(*names: str) -> Optional[str]:
    """Return the first of these variables that is set."""
    return next((value for name in names if (value := os.environ.get(name))), None)
