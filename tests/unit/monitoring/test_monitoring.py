"""Dashboards, rules, alerts and the runbook are consistent and valid."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from cli.targets import FILE_NAME, advertised
from monitoring.grafana import BOARDS, FOLDER, written
from monitoring.panels import Board
from testing.prometheus_server import CONFIGS, ROOT, tool

ALERTS = yaml.safe_load((CONFIGS / "alerts.yml").read_text())
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()

boards = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)


def checked(*arguments: str | Path) -> str:
    """Return promtool's output for files it accepts."""
    finished = subprocess.run([tool("promtool"), *map(str, arguments)], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@boards
def test_the_committed_dashboard_is_up_to_date(board: Board):
    path = FOLDER / f"{board.uid}.json"
    assert path.read_text() == written(board), "Run `python -m monitoring.grafana` and commit configs/grafana."


@boards
def test_panels_and_queries_have_unique_ids(board: Board):
    dashboard = json.loads(written(board))
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in dashboard["panels"]:
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(letters)) == len(letters)
        assert {target["datasource"]["uid"] for target in panel.get("targets", ())} <= {"${datasource}"}
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


@boards
def test_every_panel_has_a_description_and_every_query_is_valid(board: Board, tmp_path: Path):
    panels = list(board.panels)
    assert all(panel.about.endswith(".") and panel.queries for panel in panels)
    assert len({panel.title for panel in panels}) == len(panels)
    queries = [query.expression for panel in panels for query in panel.queries]
    filled = [query.replace("$__rate_interval", "1m").replace("$route", ".*") for query in queries]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(filled)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(rules)} rules found" in checked("check", "rules", tmp_path / "queries.yml")


def test_rules_and_configurations_are_valid():
    checked("check", "rules", CONFIGS / "recording_rules.yml", CONFIGS / "alerts.yml")
    for name in ("prometheus.yml", "prometheus-local.yml"):
        checked("check", "config", "--syntax-only", CONFIGS / name)


def test_the_kubernetes_configuration_is_valid_apart_from_service_discovery(tmp_path: Path):
    """Debian's Prometheus lacks Kubernetes service discovery, so that section is removed."""
    config = yaml.safe_load((CONFIGS / "prometheus-kubernetes.yml").read_text())
    for scraped in config["scrape_configs"]:
        assert scraped.pop("kubernetes_sd_configs")
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    checked("check", "config", "--syntax-only", tmp_path / "prometheus.yml")


def test_alerts_pass_their_unit_tests():
    assert "SUCCESS" in checked("test", "rules", CONFIGS / "rules_test.yml")


def test_every_alert_is_tested_firing_and_silent():
    tests = yaml.safe_load((CONFIGS / "rules_test.yml").read_text())["tests"]
    tried = {(case["alertname"], bool(case["exp_alerts"])) for test in tests for case in test["alert_rule_test"]}
    assert tried == {(alert["alert"], fires) for alert in alerts() for fires in (True, False)}


def test_the_runbook_has_exactly_one_section_per_alert():
    sections = re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:]
    names = [section.split("\n", 1)[0] for section in sections]
    assert sorted(names) == sorted(alert["alert"] for alert in alerts())
    assert {alert["annotations"]["runbook"] for alert in alerts()} == {f"docs/runbook.md#{n.lower()}" for n in names}
    for section in sections:
        assert re.findall(r"^\*\*(.+?)\.\*\*", section, flags=re.MULTILINE) == ["Means", "Look at", "Do"]


def test_the_runbook_names_existing_panels():
    titles = {panel.title for board in BOARDS for panel in board.panels} | {board.title for board in BOARDS}
    named = {
        part.strip()
        for name in re.findall(r"\*([A-Z][^*]+)\*[^*]", RUNBOOK.replace("\n", " "))
        for part in name.split(" / ")
    }
    assert named - {"Means.", "Look at.", "Do."} <= titles


def test_grafana_is_provisioned_with_prometheus_and_the_dashboards():
    provisioning = ROOT / "configs" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "ai-pipeline.yml").read_text())["providers"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert provider["options"]["path"] == "/etc/grafana/dashboards"


def test_a_target_is_registered_while_the_service_runs(tmp_path: Path):
    with advertised(tmp_path, service_url="http://127.0.0.1:8000", metrics_url="http://127.0.0.1:8080/metrics"):
        assert json.loads((tmp_path / FILE_NAME).read_text()) == [
            {"targets": ["127.0.0.1:8080"], "labels": {"job": "ray"}},
            {"targets": ["127.0.0.1:8000"], "labels": {"job": "ai-pipeline"}},
        ]
    assert list(tmp_path.iterdir()) == []


def alerts() -> list[dict[str, object]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]
