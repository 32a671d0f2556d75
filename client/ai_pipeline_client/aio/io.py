"""What `AsyncClient` does in its own way; `blocking.io` has the same names for `Client`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, AsyncGenerator, Callable, Coroutine, Optional, Set, TypeVar

import httpx

from ai_pipeline_client.progress import Reporter
from ai_pipeline_client.results import Progress

__all__ = ["Cleanups", "Http", "Items", "Transport", "closing", "displayed", "notify", "pause"]

T = TypeVar("T")

Http = httpx.AsyncClient
Transport = httpx.AsyncBaseTransport
Items = AsyncGenerator[T, None]

pause = asyncio.sleep


@asynccontextmanager
async def closing(items: Items[T]) -> AsyncIterator[Items[T]]:
    """Close a generator at the end of the block."""
    try:
        yield items
    finally:
        await items.aclose()


async def notify(reporter: Reporter, progress: Progress) -> None:
    """Report progress; the callback may be a coroutine function."""
    returned = reporter.report(progress)
    if inspect.isawaitable(returned):
        await returned


def displayed(content: Optional[bytes], fetch: Callable[[], Coroutine[Any, Any, bytes]]) -> Optional[bytes]:  # noqa: ARG001
    """Return the bytes to show in a notebook: only those at hand, as it doesn't wait."""
    return content


class Cleanups:
    """Work that is finished although the task that began it is cancelled."""

    def __init__(self) -> None:
        self._tasks: Set[asyncio.Task[Any]] = set()

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
