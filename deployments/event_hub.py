"""The event hub: one named, detached Ray actor that carries events between the ingress replicas.

It keeps nothing durable and may die: logged events are read from the log, only later without it, and ephemeral ones
(steps) don't reach the streams of other replicas while it is away.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray

from deployments import detached_actor
from pipeline.event_records import EventRecord

PROTOCOL = 1  # raised when a method's meaning changes; versions run concurrently during a rollout
KEPT_S = 5.0  # a listener that is further behind misses ephemeral events
CALL_WITHIN_S = 2.0
LISTEN_S = 10.0  # one long poll
GONE_AFTER_S = 30.0  # a listener that hasn't polled for so long is dropped
IDLE_EXIT_S = 24 * 3600.0  # a hub without calls for so long belongs to an older version


class EventHub:
    """Delivers what one listener publishes to all others."""

    def __init__(self) -> None:
        self._kept: deque[tuple[int, float, str, Sequence[EventRecord]]] = deque()
        self._count = 0
        self._heard_at: dict[str, float] = {}
        self._more = asyncio.Condition()
        self._watch = asyncio.get_running_loop().create_task(self._end_when_idle())

    async def publish(self, listener: str, passing: Sequence[EventRecord]) -> None:
        """Announce to the others that the log has grown, and deliver ephemeral events."""
        self._count += 1
        now = time.monotonic()
        self._kept.append((self._count, now, listener, passing))
        while self._kept[0][1] < now - KEPT_S:
            self._kept.popleft()
        async with self._more:
            self._more.notify_all()

    async def listen(self, listener: str, after: int | None) -> tuple[int, int, Sequence[EventRecord]]:
        """Wait for what others publish.

        Args:
            listener: the caller's name.
            after: the position that the last call returned; None at first.

        Returns:
            The position to continue from; the number of listeners; the ephemeral events.
        """
        now = time.monotonic()
        if listener not in self._heard_at:
            await self.publish(listener, ())  # so that the others learn of a peer
        self._heard_at[listener] = now
        self._heard_at = {name: at for name, at in self._heard_at.items() if now - at < GONE_AFTER_S}
        at = self._count if after is None or after > self._count else after  # a higher position is from a hub that died
        if not self._since(at, listener):
            async with self._more:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._more.wait_for(lambda: self._since(at, listener)), LISTEN_S)
        self._heard_at[listener] = time.monotonic()
        passed = [record for passing in self._since(at, listener) for record in passing]
        return self._count, len(self._heard_at), passed

    async def end(self) -> None:
        """End this actor; `exit_actor` works only within a call of its own."""
        ray.actor.exit_actor()

    def _since(self, at: int, listener: str) -> list[Sequence[EventRecord]]:
        return [passing for count, _, by, passing in self._kept if count > at and by != listener]

    async def _end_when_idle(self) -> None:
        heard_at = time.monotonic()
        while (idle_s := time.monotonic() - heard_at) < IDLE_EXIT_S:
            await asyncio.sleep(IDLE_EXIT_S - idle_s)
            heard_at = max(self._heard_at.values(), default=heard_at)
        ray.get_runtime_context().current_actor.end.remote()


def find_or_start() -> ray.actor.ActorHandle:
    """Return the running hub, or start one."""
    return detached_actor.find_or_start(ray.remote(EventHub), f"event-hub-v{PROTOCOL}", num_cpus=0.05)


class RemoteHub:
    """A client of the hub, for one ingress replica's feed."""

    def __init__(self) -> None:
        self._name = uuid.uuid4().hex
        self._actor = find_or_start()
        self._at: int | None = None
        self.has_peers = True  # until the first answer

    async def publish(self, passing: Sequence[EventRecord]) -> None:
        if self.has_peers:
            await self._call(CALL_WITHIN_S, "publish", self._name, passing)

    async def listen(self) -> Sequence[EventRecord]:
        answer: tuple[int, int, Sequence[EventRecord]] = await self._call(
            LISTEN_S + CALL_WITHIN_S, "listen", self._name, self._at
        )
        self._at, listeners, passed = answer
        self.has_peers = listeners > 1
        return passed

    async def _call(self, within_s: float, method: str, *args: object) -> Any:
        try:
            async with asyncio.timeout(within_s):
                return await getattr(self._actor, method).remote(*args)
        except ray.exceptions.ActorDiedError:  # permanently: it ended itself, or its node is gone
            self._actor = await asyncio.to_thread(find_or_start)
            raise
