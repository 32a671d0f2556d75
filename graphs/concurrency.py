"""Several pieces of work at once: the first failure ends the others, and is raised as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose failure is its first error, not a group of them: handlers match on the error's class."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def last_of(items: AsyncGenerator[Any, None]) -> Any:
    """The last item of a stream that yields progress before its result."""
    async with aclosing(items):
        *_, last = [item async for item in items]
    return last


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Yield what several streams do, as it comes, each item with the number of its stream.

    The first failure closes the others and is raised; so does leaving early.
    """
    items: asyncio.Queue[tuple[int, T] | None] = asyncio.Queue()

    async def pass_on(number: int, stream: AsyncGenerator[T, None]) -> None:
        async with aclosing(stream):
            async for item in stream:
                items.put_nowait((number, item))

    async def pass_all_on() -> None:
        try:
            async with together() as group:
                for number, stream in enumerate(streams):
                    group.create_task(pass_on(number, stream))
        finally:
            items.put_nowait(None)

    passing = asyncio.create_task(pass_all_on())
    try:
        while (item := await items.get()) is not None:
            yield item
        await passing
    finally:
        passing.cancel()
        await asyncio.wait({passing})
