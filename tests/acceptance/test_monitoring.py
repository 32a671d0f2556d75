"""A real Prometheus scrapes the running service: all panels have data."""

from __future__ import annotations

import time
from pathlib import Path

import cv2

from monitoring.grafana import BOARDS
from monitoring.plots import draw
from testing.prometheus_server import names_in, names_known, scraping, unanswered, unwell_rules
from testing.service_process import RunningService, wait_until

# Metrics of what doesn't happen in this test, but in `python -m benchmarks monitoring`.
RARE = {
    "ray_node_gpus_utilization",
    "ray_pipeline_cache_evictions_total",
    "ray_pipeline_cache_waits_total",
    "ray_pipeline_cache_bypassed_total",
    "ray_pipeline_stage_retries_total",
}


def test_every_panel_has_data_and_every_rule_can_be_evaluated(service: RunningService, tmp_path: Path):
    started = time.time()
    with scraping(service, tmp_path, every_s=1, rate_over="60s") as prometheus, service.client() as client:
        open_ = {query.expression for board in BOARDS for panel in board.panels for query in panel.queries}

        def is_shown() -> bool:
            """Send requests of every kind, as rates need growth, and query expressions without a value so far."""
            seed = int(1000 * time.time()) % 2**31
            client.post("/generate", json={"prompt": "pear", "seed": seed, "steps": 2})
            for path in ("/segment", "/segment", "/visualize"):
                client.post(path)
            client.post("/generate", json={})
            accept = {"Accept": "text/event-stream"}
            client.post("/generate", json={"prompt": "pear", "seed": seed + 1, "steps": 3}, headers=accept)
            open_.difference_update([expression for expression in open_ if prometheus.has_data(expression)])
            return not open_

        wait_until(is_shown, problem=lambda: open_)
        assert unanswered(BOARDS, prometheus, started) == []
        expressions = [query.expression for board in BOARDS for panel in board.panels for query in panel.queries]
        assert names_in(*expressions) - names_known(prometheus) <= RARE
        wait_until(lambda: not unwell_rules(prometheus), problem=lambda: unwell_rules(prometheus))
        for board in BOARDS:
            picture = tmp_path / f"{board.uid}.png"
            draw(board, prometheus, picture, start=started, end=time.time())
            assert (cv2.imread(str(picture)) < 128).sum() > 10_000  # the plot isn't blank
