"""The SLO dashboard: the objectives, the level achieved, and the burn rate of the error budget.

Its series are recorded by `configs/prometheus/recording_rules.yml`, which defines the objectives.
"""

from __future__ import annotations

from monitoring.panels import WIDTH, Board, Panel, Query, Row, Unit

WINDOWS = ("5m", "30m", "1h", "6h", "3d")


def _burn(what: str, about: str) -> Panel:
    return Panel(
        title=f"{what.capitalize()}: burn rate",
        about=f"{about} At 1 the budget lasts exactly 30 days; at 14.4 over an hour the on-call engineer is paged.",
        unit=Unit.COUNT,
        limit=14.4,
        width=WIDTH // 2,
        queries=tuple(Query(f"pipeline:{what}:burn_rate{window}", window) for window in WINDOWS),
    )


def _kept(what: str, about: str) -> Panel:
    return Panel(
        title=what.capitalize(),
        about=about,
        unit=Unit.SHARE,
        width=WIDTH // 2,
        queries=(
            *(Query(f"1 - pipeline:{what}:bad_ratio{window}", window) for window in ("5m", "1h", "3d")),
            Query(f"pipeline:{what}:objective", "objective"),
        ),
    )


SLO = Board(
    uid="ai-pipeline-slo",
    title="SLO",
    about="Service level objectives, their fulfilment, and the burn rate of the error budget.",
    rows=(
        Row(
            title="Availability",
            panels=(
                _kept("availability", "Share of requests that were not answered with 5xx."),
                _burn("availability", "How many times faster than allowed requests fail."),
            ),
        ),
        Row(
            title="Latency",
            panels=(
                _kept("latency", "Share of requests that were answered within the threshold of their kind."),
                _burn("latency", "How many times faster than allowed requests are late."),
            ),
        ),
        Row(
            title="Budget",
            panels=(
                Panel(
                    title="Error budget left",
                    about="Remaining error budget of 30 days. Below 0 the objective is missed.",
                    unit=Unit.SHARE,
                    width=WIDTH // 2,
                    queries=(
                        Query("1 - pipeline:availability:burn_rate30d", "availability"),
                        Query("1 - pipeline:latency:burn_rate30d", "latency"),
                    ),
                ),
                Panel(
                    title="Alerts",
                    about="Alerts that are firing or pending.",
                    unit=Unit.COUNT,
                    width=WIDTH // 2,
                    queries=(
                        Query(
                            'count by (alertname, alertstate) (ALERTS{alertname=~"Pipeline.+"}) or vector(0)',
                            "{{alertname}} {{alertstate}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
