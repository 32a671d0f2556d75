"""Discrete-event simulation of servers and queues, with a fixed seed: it covers what the formulas leave out."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

Callback = Callable[[], None]

SHORTEST_S = 1e-9  # of CPU: the rounding error
LEAST_SHARE = 0.1  # of a core, for a process of niceness 10 next to one of 0: about 1.25 to the power of -10


class Clock:
    """Simulated time, and the scheduled events."""

    def __init__(self) -> None:
        self.now = 0.0
        self._coming: list[tuple[float, int, Callback]] = []
        self._numbers = count()  # of simultaneous events, the one scheduled first runs first

    def after(self, seconds: float, then: Callback) -> None:
        """Schedule an event after some seconds."""
        heapq.heappush(self._coming, (self.now + seconds, next(self._numbers), then))

    def run(self, until: float) -> None:
        """Run all events that are due until a point in time."""
        while self._coming and self._coming[0][0] <= until:
            self.now, _, then = heapq.heappop(self._coming)
            then()
        self.now = until


Serve = Callable[[Callback], None]  # does a piece of work, then calls the continuation


def delay(clock: Clock, seconds: Callable[[], float]) -> Serve:
    """Return work of a given duration, independent of any other load."""
    return lambda then: clock.after(seconds(), then)


class Station:
    """One queue for several equal servers, first come, first served.

    Args:
        servers: at least one.
        serve: the work of a visit.
    """

    def __init__(self, clock: Clock, servers: int, serve: Serve) -> None:
        self._clock = clock
        self._servers = servers
        self._free = servers
        self._serve = serve
        self._waiting: deque[Callback] = deque()
        self._busy_s = 0.0

    @property
    def busy(self) -> float:
        """Utilisation of the servers so far, by visits that have ended."""
        return self._busy_s / (self._servers * self._clock.now) if self._clock.now else 0.0

    def visit(self, then: Callback) -> None:
        """Enter the queue; `then` is called at the end of the service."""
        if self._free:
            self._free -= 1
            self._begin(then)
        else:
            self._waiting.append(then)

    def _begin(self, then: Callback) -> None:
        began = self._clock.now
        self._serve(lambda: self._end(began, then))

    def _end(self, began: float, then: Callback) -> None:
        self._busy_s += self._clock.now - began
        if self._waiting:
            self._begin(self._waiting.popleft())
        else:
            self._free += 1
        then()


class Followers:
    """Workers that each take one item through several stations before the next.

    Args:
        workers: at least one.
        max_waiting: capacity of the queue; when it is full, the oldest item is dropped.
    """

    def __init__(self, workers: int, max_waiting: int) -> None:
        self._free = workers
        self._waiting: deque[Sequence[Station | Batcher]] = deque(maxlen=max_waiting)
        self.dropped = 0
        self.followed = 0

    def follow(self, path: Sequence[Station | Batcher]) -> None:
        """Queue an item for a path through stations."""
        if self._free:
            self._free -= 1
            visit_all(path, self._next)
        else:
            self.dropped += len(self._waiting) == self._waiting.maxlen
            self._waiting.append(path)

    def _next(self) -> None:
        self.followed += 1
        if self._waiting:
            visit_all(self._waiting.popleft(), self._next)
        else:
            self._free += 1


class Batcher:
    """A diffusion replica: a step for as many images as the largest batch takes, then one denoised image is decoded,
    as in `pipeline/engines/diffusion/batching.py`.

    Args:
        step: runs a step of so many images, from one to the largest batch.
        largest: size of the largest batch.
        own: starts and decodes one image.
        steps: of every image.
    """

    def __init__(
        self, clock: Clock, step: Callable[[int, Callback], None], largest: int, own: Serve, steps: int
    ) -> None:
        self._clock = clock
        self._step = step
        self._largest = largest
        self._own = own
        self._steps = steps
        self._denoising: deque[tuple[int, Callback]] = deque()  # with the remaining steps
        self._denoised: deque[Callback] = deque()
        self._is_busy = False
        self._decoded_last = False
        self._busy_s = 0.0

    @property
    def busy(self) -> float:
        """Utilisation so far."""
        return self._busy_s / self._clock.now if self._clock.now else 0.0

    @property
    def in_hand(self) -> int:
        """Images that are in progress or waiting."""
        return len(self._denoising) + len(self._denoised)

    def visit(self, then: Callback) -> None:
        """Join the batch at the next step; `then` is called when the image is finished."""
        self._denoising.append((self._steps, then))
        if not self._is_busy:
            self._continue()

    def _continue(self) -> None:
        self._is_busy = bool(self._denoising or self._denoised)
        began = self._clock.now
        if self._denoised and (not self._denoising or not self._decoded_last):
            self._decoded_last = True
            self._own(lambda: self._decode(began))
        elif self._denoising:
            self._decoded_last = False
            together = [self._denoising.popleft() for _ in range(min(len(self._denoising), self._largest))]
            self._step(len(together), lambda: self._advance(together, began))

    def _decode(self, began: float) -> None:
        self._busy_s += self._clock.now - began
        finished = self._denoised.popleft()
        self._continue()
        finished()

    def _advance(self, together: list[tuple[int, Callback]], began: float) -> None:
        self._busy_s += self._clock.now - began
        for left, then in together:
            if left > 1:
                self._denoising.append((left - 1, then))
            else:
                self._denoised.append(then)
        self._continue()


class Cores:
    """Shared CPU cores. Serving has priority, with one thread for each piece of work; engines share the rest equally.

    An engine's threads wait for each other after every operation, too briefly for the scheduler to migrate one: while
    another task occupies one of their cores, all of them stall, and another core may be idle.

    Args:
        number: of cores, possibly fractional.
        threads: of an engine.
    """

    def __init__(self, clock: Clock, number: float, threads: int) -> None:
        self._clock = clock
        self._number = number
        self._threads = threads
        self._tasks: dict[int, _Task] = {}
        self._numbers = count()
        self._updated_at = 0.0
        self._planned = 0  # number of the current plan for the next end; older ones are stale

    def work(self, cpu_s: float, then: Callback, *, busy_cores: float | None = None) -> None:
        """Start a task of so many CPU seconds.

        Args:
            busy_cores: cores that an engine keeps busy when it runs alone; None for other work.
        """
        self._catch_up()
        self._tasks[next(self._numbers)] = _Task(max(cpu_s, SHORTEST_S), then, busy_cores)
        self._plan()

    def _catch_up(self) -> None:
        passed, self._updated_at = self._clock.now - self._updated_at, self._clock.now
        for task in self._tasks.values():
            task.left_s -= task.speed * passed

    def _plan(self) -> None:
        """Assign the cores to tasks, and reassign them when the first task ends."""
        first = [task for task in self._tasks.values() if task.busy_cores is None]
        engines = [task for task in self._tasks.values() if task.busy_cores is not None]
        least = LEAST_SHARE * min(1.0, self._number / self._threads)
        left = self._number - (least * self._threads if engines else 0.0)
        for task in first:
            task.speed = min(1.0, left / len(first))
        taken = min(float(len(first)), left)
        for task in engines:
            alone = max(least, min(1.0, (self._number - taken) / len(engines)))
            together = max(least, min(1.0, self._number / self._threads - taken) / len(engines))
            task.speed = task.slowed(alone, together, self._threads)
        self._planned += 1
        plan = self._planned
        if self._tasks:
            first_s = min(task.left_s / task.speed for task in self._tasks.values())
            self._clock.after(max(0.0, first_s), lambda: self._end(plan))

    def _end(self, plan: int) -> None:
        if plan != self._planned:
            return
        self._catch_up()
        ended = [number for number, task in self._tasks.items() if task.left_s <= SHORTEST_S]
        thens = [self._tasks.pop(number).then for number in ended]
        self._plan()
        for then in thens:
            then()


@dataclass(slots=True, eq=False)
class _Task:
    left_s: float
    then: Callback
    busy_cores: float | None
    speed: float = 0.0

    def slowed(self, alone: float, together: float, threads: int) -> float:
        """Return an engine's speed, given the shares of cores that a single thread and all threads together get."""
        busy_cores = min(float(threads), self.busy_cores or 1.0)
        parallel = (busy_cores - 1) / (threads - 1) if threads > 1 else 0.0  # share of the time alone
        return busy_cores / ((1 - parallel) / alone + parallel / together)


def arrivals(clock: Clock, rate: float, chance: random.Random, arrive: Callback) -> None:
    """Schedule repeated arrivals at random times (Poisson)."""

    def next_one() -> None:
        arrive()
        clock.after(chance.expovariate(rate), next_one)

    clock.after(chance.expovariate(rate), next_one)


def visit_all(path: Sequence[Station | Batcher], then: Callback) -> None:
    """Visit several stations, one after the other."""
    if not path:
        then()
        return
    path[0].visit(lambda: visit_all(path[1:], then))


def least_busy(places: Sequence[Batcher], chance: random.Random) -> Batcher:
    """Return the less busy of two random ones, as Serve's router chooses."""
    one, other = chance.choice(places), chance.choice(places)
    return one if one.in_hand <= other.in_hand else other
