"""A diffusion replica as a queue: images denoised in one batch, each joining and leaving between two steps.

All images in service progress equally, so it is a processor-sharing queue whose speed depends on their number. Such
queues are insensitive to the distribution of service times (Kelly, Reversibility and Stochastic Networks, 1979, 3.3):
with Poisson arrivals the number in the system is that of a birth-death chain, and its mean by Little's law is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

NEGLIGIBLE = 1e-9  # of the probability, where the chain is truncated
LONGEST = 100_000  # images in the system, however close the load is to the capacity


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchServer:
    """One replica.

    Args:
        cycle_s: seconds for all steps of a batch, and for starting and decoding its images, by the number of images in
            it, from one on. The last entry is the largest batch; more images take turns.
        joining_s: mean remaining seconds of the step that is running when an image arrives.
    """

    cycle_s: tuple[float, ...]
    joining_s: float = 0.0

    def rate(self, num: int) -> float:
        """Return the images finished per second while so many are in the system."""
        together = min(num, len(self.cycle_s))
        return together / self.cycle_s[together - 1]

    @property
    def capacity(self) -> float:
        """Maximum throughput in images a second."""
        return self.rate(len(self.cycle_s))

    def latency_s(self, num: int) -> float:
        """Return the latency of an image while constantly so many are in the system, itself included."""
        return self.joining_s * (num > 1) + num / self.rate(num)

    def in_hand(self, rate: float) -> list[float]:
        """Return the probabilities of 0, 1, 2 … images in the system, at an arrival rate below the capacity.

        Raises:
            ValueError: the rate is not below the capacity.
        """
        if rate >= self.capacity:
            raise ValueError(f"{rate:g} images a second are more than the {self.capacity:g} that can be made.")
        weights = list(self._weights(rate))
        total = sum(weights)
        return [weight / total for weight in weights]

    def mean_latency_s(self, rate: float) -> float:
        """Return the mean latency, by Little's law."""
        found = self.in_hand(rate)
        if rate == 0:
            return self.latency_s(1)
        joining = self.joining_s * (1 - found[0])
        return joining + sum(num * share for num, share in enumerate(found)) / rate

    def latency_within_s(self, share: float, rate: float) -> float:
        """Return the latency quantile that so large a share of images doesn't exceed.

        It is that of an image with constantly as many others as on its arrival: others join and leave meanwhile, so
        the true spread is smaller.
        """
        passed = 0.0
        found = self.in_hand(rate)
        for others, probability in enumerate(found):
            passed += probability
            if passed >= share:
                return self.latency_s(others + 1)
        return self.latency_s(len(found))

    def _weights(self, rate: float) -> Iterator[float]:
        weight, total, num = 1.0, 1.0, 0
        yield weight
        while weight > NEGLIGIBLE * total and num < LONGEST:
            num += 1
            weight *= rate / self.rate(num)
            total += weight
            yield weight
