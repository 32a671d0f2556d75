"""Options of httpx, for both clients."""

from __future__ import annotations

from typing import Any

import httpx

from ai_pipeline_client.calls import Call
from ai_pipeline_client.retries import ANSWER_WITHIN_S

SESSION_HEADER = "X-Session-ID"
CONNECT_WITHIN_S = 5.0
HEARTBEAT_WITHIN_S = 30.0  # of a stream: the service sends one every 10 s


def http_options(server: str, api_key: str | None) -> dict[str, Any]:
    """Return the options of an httpx client."""
    return {
        "base_url": server,
        "timeout": httpx.Timeout(ANSWER_WITHIN_S, connect=CONNECT_WITHIN_S),
        "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
    }


def request_options(call: Call[Any], session: str | None) -> dict[str, Any]:
    """Return the options of a request."""
    own = {SESSION_HEADER: session} if session else {}
    options: dict[str, Any] = {
        "params": call.params,
        "json": call.json,
        "files": call.files,
        "headers": {**own, **call.headers},
    }
    if call.is_stream:  # between events
        options["timeout"] = httpx.Timeout(call.quiet_s or HEARTBEAT_WITHIN_S, connect=CONNECT_WITHIN_S)
    return options
