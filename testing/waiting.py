"""Waiting for a condition with a timeout: one that never holds is a failure and not a hanging test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

PATIENCE_S = 300.0  # ends a test that hangs; nothing that passes waits for it


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # conditions set no event
            await asyncio.sleep(0)


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the running loop's clock forward, so that timers within that time are due at once."""
    loop = asyncio.get_running_loop()
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + seconds)


async def cancel(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """Cancel a job, wait until it has stopped, and return its status."""
    job: dict[str, Any] = (await client.post(f"{url}/cancel")).json()
    async with asyncio.timeout(PATIENCE_S):
        while job["state"] == "running":
            job = (await client.get(url)).json()
    return job
