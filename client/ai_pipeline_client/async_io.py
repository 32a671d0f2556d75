"""What `AsyncClient` does in its own way; `blocking_io` has the same names for `Client`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar

import httpx

from ai_pipeline_client.results import OnProgress, Progress

__all__ = ["Cleanups", "Http", "Items", "Transport", "closing", "notify", "pause"]

T = TypeVar("T")

Http: TypeAlias = httpx.AsyncClient
Transport: TypeAlias = httpx.AsyncBaseTransport
Items: TypeAlias = AsyncGenerator[T, None]

closing = aclosing
pause = asyncio.sleep


async def notify(on_progress: OnProgress | None, progress: Progress) -> None:
    """Invoke a progress callback, which may be a coroutine function."""
    if on_progress is None:
        return
    returned = on_progress(progress)
    if inspect.isawaitable(returned):
        await returned


class Cleanups:
    """Work that is finished although the task that began it is cancelled."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, cleanup: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a cleanup; if this task is cancelled meanwhile, it goes on by itself."""
        task = asyncio.create_task(cleanup())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def wait(self) -> None:
        """Wait for those that go on by themselves."""
        if self._tasks:
            await asyncio.wait(self._tasks)
