"""Work that several callers wait for, done once.

The work belongs to nobody: it runs in a task with a fresh context, because a Serve call made in a request's context
is cancelled along with that request, even under `asyncio.shield`. When the last caller is gone, it stops. Only in a
trace it is who began it that it belongs under; the spans of others are linked to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.traces import Span, here, own_context

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(slots=True)
class _Run(Generic[T]):
    task: asyncio.Task[T]
    began_in: Span
    waiters: int = 0


class SharedRuns(Generic[K, T]):
    """A table of runs in progress; whoever asks for a key's result joins its run."""

    def __init__(self) -> None:
        self._runs: dict[K, _Run[T]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._runs

    def __len__(self) -> int:
        return len(self._runs)

    async def join(self, key: K, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for the key's run, starting it with `start()` if there is none.

        Raises:
            Whatever the run raises, for every caller alike.
        """
        run = self._runs.get(key)
        if run is None:
            task = asyncio.get_running_loop().create_task(start(), context=own_context())
            run = self._runs[key] = _Run(task, here())
            task.add_done_callback(lambda _: self._forget(key, run))
        else:
            here().link(run.began_in)
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
