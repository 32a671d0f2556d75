"""Task groups that raise plain errors, single flight, and bounded admission."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Hashable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from opentelemetry.trace import Span, get_current_span

from pipeline.errors import Overloaded
from pipeline.traces import own_context

SMOOTHING = 0.2  # weight of the newest duration in the running mean

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose failure is its first error, not a group of them: handlers match on the error's class."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def merge(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
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
            async with task_group() as group:
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


@dataclass(slots=True)
class _Run(Generic[T]):
    task: asyncio.Task[T]
    began_in: Span
    waiters: int = 0


class SingleFlight(Generic[K, T]):
    """Concurrent calls with one key share a task.

    The task has a context of its own, so a cancelled request does not cancel it; it is cancelled when its last waiter
    leaves.
    """

    def __init__(self) -> None:
        self._runs: dict[K, _Run[T]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._runs

    def __len__(self) -> int:
        return len(self._runs)

    async def run(self, key: K, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of the key's task, which `start()` makes if there is none.

        Raises:
            Exception: what the task raises, for every caller alike.
        """
        run = self._runs.get(key)
        if run is None:
            task = asyncio.get_running_loop().create_task(start(), context=own_context())
            run = self._runs[key] = _Run(task, get_current_span())
            task.add_done_callback(lambda _: self._forget(key, run))
        else:
            get_current_span().add_link(run.began_in.get_span_context())
        run.waiters += 1
        try:
            return await asyncio.shield(run.task)
        finally:
            run.waiters -= 1
            if run.waiters == 0 and not run.task.done():
                self._forget(key, run)  # first, so that a newcomer starts afresh instead of joining a dying run
                run.task.cancel()

    def _forget(self, key: K, run: _Run[T]) -> None:
        if self._runs.get(key) is run:
            del self._runs[key]
        if run.task.done() and not run.task.cancelled():
            run.task.exception()  # every caller may be gone: mark it as seen


class AdmissionLimiter:
    """Bounds the requests in flight; one that was admitted may be admitted again.

    Args:
        what: the work's name in the refusal, in the plural.
        limit: requests in flight, running or queued behind a worker.
    """

    def __init__(self, what: str, limit: int) -> None:
        self.what = what
        self.limit = limit
        self._inside: Counter[str] = Counter()  # entries by request id
        self._mean_s = 1.0

    def __len__(self) -> int:
        return len(self._inside)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._inside

    @contextmanager
    def admit(self, request_id: str) -> Iterator[None]:
        """Count a request as in flight while the block runs.

        Raises:
            Overloaded: every place is taken by others.
        """
        if request_id not in self and len(self) >= self.limit:
            raise Overloaded(waiting=len(self), what=self.what, retry_after_s=self.retry_after_s)
        with self.hold(request_id):
            yield

    @contextmanager
    def hold(self, request_id: str) -> Iterator[None]:
        """Count a request as in flight while the block runs, whatever the limit: what it waits for exists already."""
        self._inside[request_id] += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self._inside[request_id] -= 1
            if not self._inside[request_id]:
                del self._inside[request_id]
            self._mean_s += SMOOTHING * ((time.monotonic() - started) - self._mean_s)

    @property
    def retry_after_s(self) -> int:
        """Half of the mean time from entry to exit, as places free up all the while; 1 to 60 seconds."""
        return min(60, max(1, math.ceil(self._mean_s / 2)))
