"""Whose turn it is at an engine: one call at a time, people before background work."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

PATIENCE_S = 1.0


class Turns:
    """A lock that background work gets last, and gives up between its steps.

    Args:
        patience_s: after which background work counts as people's: somebody may have joined it meanwhile, and people
            who keep coming would let both wait for ever.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._is_taken = False
        self._people: deque[asyncio.Future[None]] = deque()
        self._background: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def taken(self, background: bool) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Hold the turn while the block runs; yields what background work calls between its steps to give way."""
        asked_at = time.monotonic()
        is_ours = True

        async def give_way() -> None:
            nonlocal is_ours
            is_young = time.monotonic() - asked_at < self._patience_s
            if background and is_young and any(not turn.done() for turn in self._people):
                is_ours = False
                self._pass_on()
                await self._take(background)
                is_ours = True

        await self._take(background)
        try:
            yield give_way
        finally:
            if is_ours:  # who leaves while giving way has passed it on already
                self._pass_on()

    async def _take(self, background: bool) -> None:
        if not self._is_taken:
            self._is_taken = True
            return
        turn = asyncio.get_running_loop().create_future()
        (self._background if background else self._people).append(turn)
        if background:
            asyncio.get_running_loop().call_later(self._patience_s, self._promote, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was ours already, and we don't want it any more
                self._pass_on()
            raise

    def _promote(self, turn: asyncio.Future[None]) -> None:
        if turn in self._background:
            self._background.remove(turn)
            self._people.append(turn)

    def _pass_on(self) -> None:
        for queue in (self._people, self._background):
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._is_taken = False
