"""Servers and queues as discrete events: what the formulas leave out is played through, with a fixed seed."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

Then = Callable[[], None]

SHORTEST_S = 1e-9  # of CPU: what is left of rounding
LEAST_SHARE = 0.1  # of a core, for who is nice by 10 beside who isn't: 1.25 to the power of -10, about


class Clock:
    """Simulated time, and what is to happen at which moment."""

    def __init__(self) -> None:
        self.now = 0.0
        self._coming: list[tuple[float, int, Then]] = []
        self._numbers = count()  # of two events at one moment, the one that was planned first

    def after(self, seconds: float, then: Then) -> None:
        """Have something happen later."""
        heapq.heappush(self._coming, (self.now + seconds, next(self._numbers), then))

    def run(self, until: float) -> None:
        """Let everything happen that is due before a moment."""
        while self._coming and self._coming[0][0] <= until:
            self.now, _, then = heapq.heappop(self._coming)
            then()
        self.now = until


Serve = Callable[[Then], None]  # does a piece of work, and calls what is to come after it


def lasting(clock: Clock, seconds: Callable[[], float]) -> Serve:
    """Work that takes its time, whatever else is going on."""
    return lambda then: clock.after(seconds(), then)


class Station:
    """One queue before several equal servers, first come, first served.

    Args:
        servers: at least one.
        serve: the work of a visit.
    """

    def __init__(self, clock: Clock, servers: int, serve: Serve) -> None:
        self._clock = clock
        self._servers = servers
        self._free = servers
        self._serve = serve
        self._waiting: deque[Then] = deque()
        self._busy_s = 0.0

    @property
    def busy(self) -> float:
        """Share of the servers' time so far that visits took which have ended."""
        return self._busy_s / (self._servers * self._clock.now) if self._clock.now else 0.0

    def visit(self, then: Then) -> None:
        """Queue up; `then` is called at the end of the service."""
        if self._free:
            self._free -= 1
            self._begin(then)
        else:
            self._waiting.append(then)

    def _begin(self, then: Then) -> None:
        began = self._clock.now
        self._serve(lambda: self._end(began, then))

    def _end(self, began: float, then: Then) -> None:
        self._busy_s += self._clock.now - began
        if self._waiting:
            self._begin(self._waiting.popleft())
        else:
            self._free += 1
        then()


class Followers:
    """Workers who each take one thing through several stations before they take the next.

    Args:
        workers: at least one.
        max_waiting: things that wait; the oldest makes room for one more.
    """

    def __init__(self, workers: int, max_waiting: int) -> None:
        self._free = workers
        self._waiting: deque[Sequence[Station | Batcher]] = deque(maxlen=max_waiting)
        self.dropped = 0
        self.followed = 0

    def follow(self, path: Sequence[Station | Batcher]) -> None:
        """Have something taken through."""
        if self._free:
            self._free -= 1
            through(path, self._next)
        else:
            self.dropped += len(self._waiting) == self._waiting.maxlen
            self._waiting.append(path)

    def _next(self) -> None:
        self.followed += 1
        if self._waiting:
            through(self._waiting.popleft(), self._next)
        else:
            self._free += 1


class Batcher:
    """A diffusion replica: a step for as many images as the largest batch takes, then one of those that are done is
    decoded, as `pipeline/engines/diffusion/batching.py` does it.

    Args:
        step: does a step of so many images, from one to the largest batch.
        largest: that.
        own: starts and decodes one image.
        steps: of every image.
    """

    def __init__(self, clock: Clock, step: Callable[[int, Then], None], largest: int, own: Serve, steps: int) -> None:
        self._clock = clock
        self._step = step
        self._largest = largest
        self._own = own
        self._steps = steps
        self._denoising: deque[tuple[int, Then]] = deque()  # with the steps that are left
        self._denoised: deque[Then] = deque()
        self._is_busy = False
        self._decoded_last = False
        self._busy_s = 0.0

    @property
    def busy(self) -> float:
        """Share of the time so far."""
        return self._busy_s / self._clock.now if self._clock.now else 0.0

    @property
    def in_hand(self) -> int:
        """Images that aren't finished."""
        return len(self._denoising) + len(self._denoised)

    def visit(self, then: Then) -> None:
        """Take part from the next step on; `then` is called when the image is finished."""
        self._denoising.append((self._steps, then))
        if not self._is_busy:
            self._go_on()

    def _go_on(self) -> None:
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
        self._go_on()
        finished()

    def _advance(self, together: list[tuple[int, Then]], began: float) -> None:
        self._busy_s += self._clock.now - began
        for left, then in together:
            if left > 1:
                self._denoising.append((left - 1, then))
            else:
                self._denoised.append(then)
        self._go_on()


class Cores:
    """Processors that everything shares. What answers people goes first, one thread for each piece of work; engines
    take what it leaves, all alike.

    An engine's threads wait for each other after every operation, too shortly for the system to move one elsewhere:
    while something else has one of their cores, all of them stand still, and another core may have nothing to do.

    Args:
        number: of cores, maybe not a whole one.
        threads: of an engine.
    """

    def __init__(self, clock: Clock, number: float, threads: int) -> None:
        self._clock = clock
        self._number = number
        self._threads = threads
        self._tasks: dict[int, _Task] = {}
        self._numbers = count()
        self._updated_at = 0.0
        self._planned = 0  # of several plans for the next end, the one that holds

    def work(self, cpu_s: float, then: Then, *, busy_cores: float | None = None) -> None:
        """Spend seconds of CPU on something.

        Args:
            busy_cores: that an engine keeps busy when it is alone; None for what isn't an engine.
        """
        self._catch_up()
        self._tasks[next(self._numbers)] = _Task(max(cpu_s, SHORTEST_S), then, busy_cores)
        self._plan()

    def _catch_up(self) -> None:
        passed, self._updated_at = self._clock.now - self._updated_at, self._clock.now
        for task in self._tasks.values():
            task.left_s -= task.speed * passed

    def _plan(self) -> None:
        """Share out the cores, and look again when the first task ends."""
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
    then: Then
    busy_cores: float | None
    speed: float = 0.0

    def slowed(self, alone: float, together: float, threads: int) -> float:
        """The speed of an engine whose single thread, and whose threads together, get such shares of what they want."""
        busy_cores = min(float(threads), self.busy_cores or 1.0)
        parallel = (busy_cores - 1) / (threads - 1) if threads > 1 else 0.0  # share of the time alone
        return busy_cores / ((1 - parallel) / alone + parallel / together)


def arrivals(clock: Clock, rate: float, chance: random.Random, arrive: Then) -> None:
    """Have something arrive again and again, at random moments (Poisson)."""

    def next_one() -> None:
        arrive()
        clock.after(chance.expovariate(rate), next_one)

    clock.after(chance.expovariate(rate), next_one)


def through(path: Sequence[Station | Batcher], then: Then) -> None:
    """Visit several stations, one after the other."""
    if not path:
        then()
        return
    path[0].visit(lambda: through(path[1:], then))


def least_busy(places: Sequence[Batcher], chance: random.Random) -> Batcher:
    """The better of two at random, as Serve's router chooses."""
    one, other = chance.choice(places), chance.choice(places)
    return one if one.in_hand <= other.in_hand else other
