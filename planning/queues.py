"""Formulas of queueing theory, as free functions. Rates are per second, loads in Erlang.

Sources: M/M/c in Kleinrock, Queueing Systems I (1975), 3.5; the correction for non-exponential times in Allen,
Probability, Statistics and Queueing Theory (2nd edition 1990), 5.3 (Allen-Cunneen).
"""

from __future__ import annotations

import math


def probability_of_waiting(servers: int, load: float) -> float:
    """Return the probability that an arrival finds all servers of an M/M/c queue busy (Erlang C); 1 if overloaded.

    Args:
        servers: at least one.
        load: arrival rate times service time.
    """
    if load >= servers:
        return 1.0
    blocked = 1.0  # Erlang B, by its recursion over the servers: factorials would overflow
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - (load / servers) * (1 - blocked))


def mean_wait_s(servers: int, rate: float, service_s: float, *, variability: float = 1.0) -> float:
    """Return the mean wait in a queue with several servers; infinite if overloaded.

    Args:
        servers: at least one.
        rate: of arrivals.
        service_s: mean time of service.
        variability: half the sum of the squared coefficients of variation of arrivals and service: 1 for M/M/c, where
            it is exact, 0.5 for constant service times.
    """
    load = rate * service_s
    if load >= servers:
        return math.inf
    return probability_of_waiting(servers, load) * service_s / (servers - load) * variability


def wait_within_s(share: float, servers: int, rate: float, service_s: float, *, variability: float = 1.0) -> float:
    """Return the quantile of the wait that so large a share of arrivals doesn't exceed.

    The wait of an arrival that has to wait is exponential, which is exact for M/M/c, with the mean of `mean_wait_s`.
    """
    load = rate * service_s
    waiting = probability_of_waiting(servers, load)
    if load >= servers:
        return math.inf
    if waiting <= 1 - share:
        return 0.0
    return math.log(waiting / (1 - share)) * service_s / (servers - load) * variability
