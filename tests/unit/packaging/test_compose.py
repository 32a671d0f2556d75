"""`compose.yaml` is consistent with the service, its files and itself. Nothing here starts a container."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from typer.main import get_command

from cli.main import app
from pipeline.settings import PROJECT_ROOT, ServiceSettings
from pipeline.store import Blobs, open_store
from testing.servers import S3

COMPOSE = yaml.safe_load((PROJECT_ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
each_service = pytest.mark.parametrize("name", SERVICES)


def environment(name: str) -> dict[str, str]:
    """Return a service's environment when no variable is set outside."""
    return {key: unset(value) for key, value in SERVICES[name].get("environment", {}).items()}


def unset(text: str) -> str:
    """Return the text with every variable replaced by its default."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def mounts(name: str) -> list[list[str]]:
    return [volume.split(":") for volume in SERVICES[name].get("volumes", ())]


@each_service
def test_dependencies_exist_and_have_health_checks(name: str):
    assert "healthcheck" in SERVICES[name]
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        assert how["condition"] in ("service_started", "service_healthy")


def test_the_service_starts_after_its_storage_is_healthy():
    healthy = {"condition": "service_healthy"}
    assert SERVICES["pipeline"]["depends_on"] == {"postgres": healthy, "s3": healthy}


@each_service
def test_ports_are_published_on_loopback_only(name: str):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))
    assert "network_mode" not in SERVICES[name]


@each_service
def test_a_service_writes_only_to_its_volumes(name: str):
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    for source, _, *options in mounts(name):
        if source.startswith("."):
            assert options == ["ro"]
            assert (PROJECT_ROOT / source).is_dir(), "Docker would make an empty folder in its place"
        else:
            assert source in COMPOSE["volumes"]


def test_every_volume_is_mounted():
    assert {source for name in SERVICES for source, *_ in mounts(name) if not source.startswith(".")} == set(
        COMPOSE["volumes"]
    )


@pytest.mark.parametrize(("name", "command"), [("pipeline", "serve"), ("dashboard", "dashboard")])
def test_the_command_line_reads_every_variable(name: str, command: str, monkeypatch: pytest.MonkeyPatch):
    for variable in ("PIPELINE_DATABASE", "PIPELINE_BLOBS"):
        monkeypatch.setenv(variable, f"postgresql+psycopg://{variable}")
    of_settings = {v for v in ("PIPELINE_DATABASE", "PIPELINE_BLOBS") if v in str(ServiceSettings().storage)}
    options = get_command(app).commands[command].params  # type: ignore[attr-defined]
    named = [[option.envvar] if isinstance(option.envvar, str) else option.envvar or [] for option in options]
    read = {variable for names in named for variable in names} | (of_settings if command == "serve" else set())
    assert {variable for variable in environment(name) if variable.startswith("PIPELINE_")} <= read


def test_names_and_ports_are_those_of_the_services():
    variables = {**environment("pipeline"), **environment("dashboard")}
    scraped = yaml.safe_load((PROJECT_ROOT / "configs" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {target for job in scraped for static in job["static_configs"] for target in static["targets"]}
    assert targets == {"pipeline:8000", f"pipeline:{variables['PIPELINE_METRICS_PORT']}"}
    assert variables["PIPELINE_SERVER"] == "http://pipeline:8000"
    assert variables["PIPELINE_DATABASE"].endswith("@postgres/pipeline")
    assert variables["AWS_ENDPOINT"] == "http://s3:8333"
    (source,) = (PROJECT_ROOT / "configs" / "grafana" / "provisioning" / "datasources").glob("*.yml")
    assert [d["url"] for d in yaml.safe_load(source.read_text())["datasources"]] == ["http://prometheus:9090"]


def test_grafana_finds_its_dashboards():
    (providers,) = (PROJECT_ROOT / "configs" / "grafana" / "provisioning" / "dashboards").glob("*.yml")
    (provider,) = yaml.safe_load(providers.read_text())["providers"]
    sources = {target: source for source, target, *_ in mounts("grafana")}
    assert list((PROJECT_ROOT / sources[provider["options"]["path"]]).glob("*.json"))
    assert "./configs/grafana/provisioning" in sources.values()


def test_servers_and_service_have_the_same_credentials():
    pipeline, postgres, s3 = environment("pipeline"), environment("postgres"), environment("s3")
    assert pipeline["PGPASSWORD"] == postgres["POSTGRES_PASSWORD"]
    assert pipeline["PIPELINE_DATABASE"].endswith(f"//{postgres['POSTGRES_USER']}@postgres/{postgres['POSTGRES_DB']}")
    assert pipeline["PIPELINE_BLOBS"] == f"s3://{s3['S3_BUCKET']}"
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert pipeline[key] == s3[key]


def test_the_service_keeps_everything_in_postgresql_and_s3(
    tmp_path: Path, postgres_server: str, s3_server: S3, monkeypatch: pytest.MonkeyPatch
):
    variables = environment("pipeline")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE ROLE pipeline LOGIN PASSWORD 'pipeline'")
        connection.execute("CREATE DATABASE pipeline OWNER pipeline")
    s3_server.make_bucket(variables["PIPELINE_BLOBS"].removeprefix("s3://"))
    here = postgres_server.partition("@")[2].removesuffix("/postgres")
    moved = {
        "PIPELINE_DATABASE": variables["PIPELINE_DATABASE"].replace("postgres/", f"{here}/"),
        "AWS_ENDPOINT": s3_server.endpoint,
    }
    for variable, value in (variables | moved).items():
        if variable.startswith(("AWS_", "PG", "PIPELINE_DATABASE", "PIPELINE_BLOBS")):
            monkeypatch.setenv(variable, value)
    store = open_store(ServiceSettings(data_dir=tmp_path))
    key, _ = store.keys.create("ann", "compose")
    Blobs(variables["PIPELINE_BLOBS"]).put("images/one.png", b"pixels")
    store.log.engine.dispose()
    again = open_store(ServiceSettings(data_dir=tmp_path / "elsewhere"))
    assert [kept.key_id for kept in again.keys.list()] == [key.key_id]
    assert again.png("one") == b"pixels"
    again.log.engine.dispose()
    assert not list(tmp_path.glob("**/*.*"))
