"""Dashboards as data: rows of panels, each with its Prometheus queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

WIDTH = 24  # of Grafana's grid, in columns


class Unit(StrEnum):
    """The unit of a panel's values, by Grafana's names."""

    COUNT = "short"
    PER_SECOND = "cps"
    SECONDS = "s"
    MILLISECONDS = "ms"
    BYTES = "bytes"
    SHARE = "percentunit"  # 0 to 1
    PERCENT = "percent"  # 0 to 100


@dataclass(frozen=True, slots=True)
class Query:
    """A Prometheus query."""

    expression: str  # PromQL; may contain `$__rate_interval` and `$route`
    legend: str  # with labels in double braces


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A graph."""

    title: str
    about: str  # what it shows, and which values are bad
    unit: Unit
    queries: tuple[Query, ...]
    is_stacked: bool = False
    limit: float | None = None  # threshold, above which it is red
    width: int = WIDTH // 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Panels that belong together."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """A dashboard."""

    uid: str  # permanent: links and bookmarks contain it
    title: str
    about: str
    rows: tuple[Row, ...]
    has_routes: bool = False  # whether its queries contain `$route`

    @property
    def panels(self) -> Iterator[Panel]:
        """All panels, from the top."""
        return (panel for row in self.rows for panel in row.panels)


def quantiles(
    histogram: str, by: str = "", where: str = "", only: tuple[float, ...] = (0.5, 0.95, 0.99)
) -> tuple[Query, ...]:
    """Return queries for quantiles of a histogram.

    Args:
        histogram: its name, without `_bucket`.
        by: a label to group by.
        where: label matchers.
        only: which quantiles, 0 to 1.
    """
    labels, name = (f"le, {by}", f"{{{{{by}}}}} ") if by else ("le", "")
    matched = f"{{{where}}}" if where else ""
    rates = f"sum by ({labels}) (rate({histogram}_bucket{matched}[$__rate_interval]))"
    return tuple(Query(f"histogram_quantile({q}, {rates})", f"{name}p{100 * q:g}") for q in only)


def rate(counter: str, by: str = "", where: str = "") -> str:
    """Return the PromQL of a counter's growth per second, over all processes."""
    matched = f"{{{where}}}" if where else ""
    return f"sum{f' by ({by})' if by else ''} (rate({counter}{matched}[$__rate_interval]))"


def growth(counter: str, over: str, by: str) -> str:
    """Return the PromQL of a counter's growth, its first value included: `increase` misses the start of a series.

    Args:
        over: time range, such as "5m".
        by: a label to group by.
    """
    now = f"last_over_time({counter}[{over}])"
    return f"sum by ({by}) ({now} - ({counter} offset {over} or {now} * 0))"


def or_zero(expression: str) -> str:
    """Return an expression that is 0 while it has no data: a counter doesn't exist before its first increment."""
    return f"{expression} or vector(0)"
