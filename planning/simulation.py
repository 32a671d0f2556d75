"""Servers and queues as discrete events: what the formulas leave out is played through, with a fixed seed."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count

Then = Callable[[], None]


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


class Station:
    """One queue before several equal servers, first come, first served.

    Args:
        servers: at least one.
        service_s: draws how long a visit takes.
    """

    def __init__(self, clock: Clock, servers: int, service_s: Callable[[], float]) -> None:
        self._clock = clock
        self._servers = servers
        self._free = servers
        self._service_s = service_s
        self._waiting: deque[Then] = deque()
        self._busy_s = 0.0

    @property
    def busy(self) -> float:
        """Share of the servers' time so far that they had work, begun visits in full; above 1 a queue has formed."""
        return self._busy_s / (self._servers * self._clock.now) if self._clock.now else 0.0

    @property
    def in_hand(self) -> int:
        """Visits that wait or are being served."""
        return len(self._waiting) + self._servers - self._free

    def visit(self, then: Then) -> None:
        """Queue up; `then` is called at the end of the service."""
        if self._free:
            self._free -= 1
            self._serve(then)
        else:
            self._waiting.append(then)

    def _serve(self, then: Then) -> None:
        seconds = self._service_s()
        self._busy_s += seconds
        self._clock.after(seconds, lambda: self._end(then))

    def _end(self, then: Then) -> None:
        if self._waiting:
            self._serve(self._waiting.popleft())
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
    decoded, as `pipeline/engines/continuous.py` does it.

    Args:
        step_s: seconds of a step by the number of images in it, from one on.
        own_s: seconds that each image takes by itself, to be started and decoded.
        steps: of every image.
    """

    def __init__(self, clock: Clock, step_s: Sequence[float], own_s: float, steps: int) -> None:
        self._clock = clock
        self._step_s = step_s
        self._own_s = own_s
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
        if self._denoised and (not self._denoising or not self._decoded_last):
            self._decoded_last = True
            self._spend(self._own_s, self._decode)
        elif self._denoising:
            self._decoded_last = False
            together = [self._denoising.popleft() for _ in range(min(len(self._denoising), len(self._step_s)))]
            self._spend(self._step_s[len(together) - 1], lambda: self._step(together))

    def _spend(self, seconds: float, then: Then) -> None:
        self._busy_s += seconds
        self._clock.after(seconds, then)

    def _decode(self) -> None:
        finished = self._denoised.popleft()
        self._go_on()
        finished()

    def _step(self, together: list[tuple[int, Then]]) -> None:
        for left, then in together:
            if left > 1:
                self._denoising.append((left - 1, then))
            else:
                self._denoised.append(then)
        self._go_on()


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
