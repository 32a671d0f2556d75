"""A client for the part of Prometheus' HTTP API that dashboards need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray


class PrometheusError(Exception):
    """A query failed; the message has the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A time series: the values of one set of labels."""

    labels: Mapping[str, str]
    times: NDArray[np.float64]  # (n,) seconds since 1970
    values: NDArray[np.float64]  # (n,)

    def named(self, legend: str) -> str:
        """Fill a legend's double braces with the labels."""
        return re.sub(r"{{(\w+)}}", lambda match: self.labels.get(match[1], ""), legend)


class Prometheus:
    """A client of Prometheus; leaving its block closes the connections.

    Args:
        url: its address.
        rate_interval: value of `$__rate_interval`, such as "1m": at least four scrape intervals.
        route: value of `$route`, a regular expression.
    """

    def __init__(self, url: str, rate_interval: str, route: str = ".*") -> None:
        self.url = url
        self._http = httpx.Client(base_url=f"{url}/api/v1/", timeout=60)
        self._rate_interval = rate_interval
        self._route = route

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def over_time(self, expression: str, *, start: float, end: float, step_s: float) -> list[Series]:
        """Evaluate an expression over a time range.

        Args:
            expression: PromQL, with Grafana's variables.
            start, end: seconds since 1970.
            step_s: seconds between evaluations.

        Raises:
            PrometheusError: Prometheus rejects it.
        """
        found = self.get("query_range", query=self._filled(expression), start=start, end=end, step=step_s)["result"]
        return [
            Series(labels=one["metric"], times=table[:, 0], values=table[:, 1])
            for one in found
            for table in [np.array(one["values"], dtype=float)]
        ]

    def has_data(self, expression: str) -> bool:
        """Whether an expression has a value now.

        Raises:
            PrometheusError: Prometheus rejects it.
        """
        return bool(self.get("query", query=self._filled(expression))["result"])

    def _filled(self, expression: str) -> str:
        return expression.replace("$__rate_interval", self._rate_interval).replace("$route", self._route)

    def get(self, what: str, **parameters: Any) -> Any:
        """Send a GET request to its API.

        Raises:
            PrometheusError: it returns an error, isn't ready yet, or isn't a Prometheus.
        """
        response = self._http.get(what, params=parameters)
        if not response.headers.get("Content-Type", "").startswith("application/json"):
            raise PrometheusError(f"{response.status_code} {response.text[:200]}")
        answer = response.json()
        if answer["status"] != "success":
            raise PrometheusError(answer["error"])
        return answer["data"]
