"""Dashboards in Grafana's JSON model: `python -m monitoring.grafana` writes `configs/grafana/dashboards`."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as shapes

from monitoring.cluster_board import CLUSTER
from monitoring.panels import Board, Panel
from monitoring.pipeline_board import PIPELINE
from monitoring.slo_board import SLO

BOARDS = (PIPELINE, CLUSTER, SLO)
FOLDER = Path(__file__).parents[1] / "configs" / "grafana" / "dashboards"
SOURCE = shapes.DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8  # of a panel, in rows of Grafana's grid
TAG = "ai-pipeline"


def written(board: Board) -> str:
    """Serialize a dashboard as JSON."""
    return JSONEncoder(sort_keys=True, indent=2).encode(_built(board).build()) + "\n"


def _built(board: Board) -> dashboard.Dashboard:
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags([TAG])
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
        .tooltip(shapes.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .link(
            dashboard.DashboardLink("ai-pipeline").type(shapes.DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True)
        )
    )
    if board.has_routes:
        built = built.with_variable(
            dashboard.QueryVariable("route")
            .label("Route")
            .datasource(SOURCE)
            .query("label_values(ray_pipeline_requests_total, route)")
            .refresh(shapes.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    ids = count(1)
    for row in board.rows:
        built = built.with_row(dashboard.Row(row.title).id(next(ids)))
        for panel in row.panels:
            built = built.with_panel(_graph(panel, next(ids)))
    return built


def _graph(panel: Panel, panel_id: int) -> timeseries.Panel:
    graph = (
        timeseries.Panel()
        .id(panel_id)
        .title(panel.title)
        .description(panel.about)
        .datasource(SOURCE)
        .unit(panel.unit)
        .span(panel.width)
        .height(HEIGHT)
        .fill_opacity(30 if panel.is_stacked else 5)
        .show_points(options.VisibilityMode.NEVER)
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    if panel.is_stacked:
        graph = graph.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL))
    if panel.limit is not None:
        steps = [shapes.Threshold(color="green"), shapes.Threshold(value=panel.limit, color="red")]
        graph = graph.thresholds(
            dashboard.ThresholdsConfig().mode(shapes.ThresholdsMode.ABSOLUTE).steps(steps)
        ).thresholds_style(common.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.LINE))
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).datasource(SOURCE).range()
        graph = graph.with_target(target.expr(query.expression).legend_format(query.legend))
    return graph


if __name__ == "__main__":
    for board in BOARDS:
        (FOLDER / f"{board.uid}.json").write_text(written(board))
