"""Whose turn it is at an engine: one call at a time, people before background work."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """A lock that background work gets last, and gives up between its steps."""

    def __init__(self) -> None:
        self._is_taken = False
        self._people: deque[asyncio.Future[None]] = deque()
        self._background: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def taken(self, background: bool) -> AsyncIterator[None]:
        """Hold the turn while the block runs."""
        await self._take(background)
        try:
            yield
        finally:
            self._pass_on()

    async def give_way(self) -> None:
        """Let the people who wait go first; background work calls it between its steps."""
        if any(not turn.done() for turn in self._people):
            self._pass_on()
            await self._take(background=True)

    async def _take(self, background: bool) -> None:
        if not self._is_taken:
            self._is_taken = True
            return
        turn = asyncio.get_running_loop().create_future()
        (self._background if background else self._people).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was ours already, and we don't want it any more
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        for queue in (self._people, self._background):
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._is_taken = False
