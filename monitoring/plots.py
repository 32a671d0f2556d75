"""Plot dashboards without Grafana: `python -m monitoring.plots --prometheus http://127.0.0.1:9090 --out plots`.

Runs each panel's queries and plots the results, one picture per dashboard.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter
from matplotlib.ticker import EngFormatter, FuncFormatter, PercentFormatter

from monitoring.grafana import BOARDS
from monitoring.panels import WIDTH, Board, Panel, Row, Unit
from monitoring.prometheus import Prometheus, Series

POINTS = 240
LEGENDS = 8  # maximum, for which a small graph has room
FORMATTERS = {
    Unit.BYTES: EngFormatter("B"),
    Unit.SECONDS: EngFormatter("s"),
    Unit.MILLISECONDS: FuncFormatter(lambda value, _: EngFormatter("s")(value / 1000)),
    Unit.PER_SECOND: EngFormatter("/s"),
    Unit.SHARE: PercentFormatter(1.0),
    Unit.PERCENT: PercentFormatter(100.0),
}


def draw(board: Board, prometheus: Prometheus, path: Path, *, start: float, end: float) -> None:
    """Plot a dashboard from `start` to `end`, in seconds since 1970, to a PNG."""
    lines = [line for row in board.rows for line in _lines(row)]
    figure, table = pyplot.subplots(len(lines), 1, figsize=(18, 3.4 * len(lines)), squeeze=False)
    for axes in table.flat:
        axes.axis("off")
    figure.suptitle(f"{board.title}: {board.about}", fontsize=13)
    for number, (title, panels) in enumerate(lines):
        grid = table[number, 0].get_subplotspec().subgridspec(1, WIDTH, wspace=2.5)
        column = 0
        for panel in panels:
            axes = figure.add_subplot(grid[0, column : column + panel.width])
            column += panel.width
            _graph(axes, panel, _query(panel, prometheus, start, end))
        table[number, 0].set_title(title, loc="left", fontsize=12, fontweight="bold", pad=22)
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    figure.savefig(path, dpi=70)
    pyplot.close(figure)


def _lines(row: Row) -> list[tuple[str, list[Panel]]]:
    """Wrap a row whose panels are wider than the grid."""
    lines: list[tuple[str, list[Panel]]] = [(row.title, [])]
    for panel in row.panels:
        if sum(one.width for one in lines[-1][1]) + panel.width > WIDTH:
            lines.append(("", []))
        lines[-1][1].append(panel)
    return lines


def _query(panel: Panel, prometheus: Prometheus, start: float, end: float) -> list[tuple[str, Series]]:
    step_s = max(1.0, (end - start) / POINTS)
    return [
        (series.named(query.legend), series)
        for query in panel.queries
        for series in prometheus.over_time(query.expression, start=start, end=end, step_s=step_s)
    ]


def _graph(axes: Axes, panel: Panel, answers: Sequence[tuple[str, Series]]) -> None:
    axes.set_title(panel.title, fontsize=10)
    for name, series in answers:
        when: Any = [datetime.fromtimestamp(at) for at in series.times]
        axes.plot(when, series.values, label=name, linewidth=1.2)  # stacked in Grafana; lines are easier to compare
    if not answers:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes, color="red")
    if panel.limit is not None:
        axes.axhline(panel.limit, color="red", linewidth=0.8, linestyle="--")
    if formatter := FORMATTERS.get(panel.unit):
        axes.yaxis.set_major_formatter(formatter)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))  # type: ignore[no-untyped-call]
    axes.tick_params(labelsize=7)
    highest = max((value for _, series in answers for value in series.values if math.isfinite(value)), default=1.0)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=None if highest else 1.0)
    axes.grid(alpha=0.3)
    if answers:
        axes.legend(*[part[:LEGENDS] for part in axes.get_legend_handles_labels()], fontsize=6, loc="upper left")


def main() -> None:
    """Plot all dashboards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="URL of Prometheus")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the time range, until now")
    parser.add_argument("--rate-interval", default="1m", help="range of rates: at least four scrape intervals")
    parser.add_argument("--out", type=Path, default=Path("plots"), help="folder for the pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.time()
    with Prometheus(options.prometheus, options.rate_interval) as prometheus:
        for board in BOARDS:
            path = options.out / f"{board.uid}.png"
            draw(board, prometheus, path, start=end - 60 * options.minutes, end=end)
            print(path)


if __name__ == "__main__":
    mpl.use("agg")
    main()
