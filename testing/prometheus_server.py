"""A real Prometheus from Debian, with this project's rules, that scrapes a service under test."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

from cli.targets import FILE_NAME
from monitoring.panels import Board
from monitoring.prometheus import Prometheus, PrometheusError
from testing.debian import ensure
from testing.ports import quiet_port
from testing.service_process import ROOT, RunningService, wait_until

CONFIGS = ROOT / "configs" / "prometheus"


def tool(name: str) -> str:
    """Return the path of `prometheus` or `promtool`."""
    return ensure("prometheus", lambda: shutil.which(name))


@contextmanager
def scraping(service: RunningService, folder: Path, *, every_s: int, rate_over: str) -> Iterator[Prometheus]:
    """Run a Prometheus that discovers the service by its targets file; yield it once all targets are scraped.

    Args:
        every_s: seconds between scrapes.
        rate_over: the value of `$__rate_interval`.
    """
    config = yaml.safe_load((CONFIGS / "prometheus-local.yml").read_text())
    config["global"] = {"scrape_interval": f"{every_s}s", "evaluation_interval": f"{every_s}s"}
    config["rule_files"] = [str(CONFIGS / name) for name in config["rule_files"]]
    (files,) = config["scrape_configs"]
    files["file_sd_configs"][0]["files"] = [str(service.data_dir / FILE_NAME)]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = quiet_port()
    command = [tool("prometheus"), f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        with Prometheus(f"http://127.0.0.1:{port}", rate_over) as prometheus:
            wait_until(lambda: process.poll() is not None or _scraped(prometheus) == {"ray", "ai-pipeline"})
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            yield prometheus
    finally:
        process.terminate()
        process.wait(30)


def _scraped(prometheus: Prometheus) -> set[str]:
    try:
        return {one["metric"]["job"] for one in prometheus.get("query", query="up == 1")["result"]}
    except (httpx.HTTPError, PrometheusError):  # not listening or not ready yet
        return set()


def unanswered(boards: Iterable[Board], prometheus: Prometheus, since: float) -> list[str]:
    """Return the queries without any value since a time, in seconds since 1970.

    The range ends after now, because a rule's first sample may be younger than the last step before now.
    """
    return [
        f"{board.title} / {panel.title}: {query.expression}"
        for board in boards
        for panel in board.panels
        for query in panel.queries
        if not prometheus.over_time(query.expression, start=since, end=time.time() + 1, step_s=1)
    ]


def names_in(*texts: str) -> set[str]:
    """Return the metrics named in expressions."""
    return {name for text in texts for name in re.findall(r"\b(?:ray|pipeline)_[a-z_0-9]+", text)} - {"ray_cluster"}


def names_known(prometheus: Prometheus) -> set[str]:
    """Return the scraped metrics."""
    return set(prometheus.get("label/__name__/values"))


def unwell_rules(prometheus: Prometheus) -> list[str]:
    """Return the rules that could not be evaluated, with their errors."""
    groups = prometheus.get("rules")["groups"]
    return [f"{rule['name']}: {rule.get('lastError')}" for g in groups for rule in g["rules"] if rule["health"] != "ok"]
