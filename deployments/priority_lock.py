"""Priority lock: one call at a time, interactive calls before background work."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

AGING_S = 1.0


class PriorityLock:
    """A lock that background work acquires last, and yields between its steps.

    Args:
        aging_s: after which background work counts as interactive: an interactive call may have joined it by then, and
            a stream of others would starve both.
    """

    def __init__(self, aging_s: float = AGING_S) -> None:
        self._aging_s = aging_s
        self._is_held = False
        self._interactive: deque[asyncio.Future[None]] = deque()
        self._background: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def acquire(self, background: bool) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Hold the lock during the block; the value is a function by which background work yields between its steps."""
        requested_at = time.monotonic()
        is_ours = True

        async def yield_to_interactive() -> None:
            nonlocal is_ours
            is_young = time.monotonic() - requested_at < self._aging_s
            if background and is_young and any(not turn.done() for turn in self._interactive):
                is_ours = False
                self._release()
                await self._wait_for_turn(background)
                is_ours = True

        await self._wait_for_turn(background)
        try:
            yield yield_to_interactive
        finally:
            if is_ours:  # not if it was cancelled while it had yielded the lock
                self._release()

    async def _wait_for_turn(self, background: bool) -> None:
        if not self._is_held:
            self._is_held = True
            return
        turn = asyncio.get_running_loop().create_future()
        (self._background if background else self._interactive).append(turn)
        if background:
            asyncio.get_running_loop().call_later(self._aging_s, self._promote, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the lock was granted already
                self._release()
            raise

    def _promote(self, turn: asyncio.Future[None]) -> None:
        if turn in self._background:
            self._background.remove(turn)
            self._interactive.append(turn)

    def _release(self) -> None:
        for queue in (self._interactive, self._background):
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._is_held = False
