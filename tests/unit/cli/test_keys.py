"""API keys on the command line, and its refusal of unauthenticated public access. Nothing here starts Ray."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import main
from cli.config import LaunchConfig, LaunchOptions, load_config
from cli.errors import LaunchError
from cli.exposure import check_exposure, is_loopback, warnings
from pipeline.settings import ServiceSettings, StorageSettings
from pipeline.store import open_store

VARIABLES = ("KEYS", "OPEN_TO_ANYONE", "HOST", "DATA_DIR", "DATABASE", "BLOBS")
ENVIRONMENT = {f"PIPELINE_{name}": "" for name in VARIABLES}


def command(*arguments: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(main.app, arguments, env=ENVIRONMENT | environment)
    return result.exit_code, result.output


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPELINE_API_KEY", raising=False)


def test_a_key_is_created_shown_once_listed_and_revoked(tmp_path: Path):
    here = ("--data-dir", str(tmp_path))
    code, output = command("keys", "create", "--owner", "ann", "--name", "my [laptop]", *here)
    assert code == 0
    (token,) = re.findall(r"^aip_\S+$", output, re.MULTILINE)
    assert "this once" in output
    store = open_store(ServiceSettings(data_dir=tmp_path, storage=StorageSettings()))
    (key,) = store.keys.list()
    assert (store.keys.authenticate(token), key.owner, key.name) == (key, "ann", "my [laptop]")

    code, output = command("keys", "list", *here)
    assert code == 0
    assert key.key_id in output
    assert "my [laptop]" in output
    assert token not in output

    code, output = command("keys", "revoke", key.key_id, *here)
    assert code == 0
    assert "10 s" in output
    assert store.keys.authenticate(token) is None
    store.log.engine.dispose()


@pytest.mark.parametrize(
    ("arguments", "advice", "expected"),
    [(("create", "--owner", "a/b"), "letters, digits", 4), (("revoke", "nonsense"), "keys list", 3)],
)
def test_errors_come_with_advice(tmp_path: Path, arguments: tuple[str, ...], advice: str, expected: int):
    code, output = command("keys", *arguments, "--data-dir", str(tmp_path))
    assert code == expected
    assert advice in " ".join(output.split())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_serve_refuses_a_public_host_without_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str):
    monkeypatch.setattr(main, "launched", lambda *_: pytest.fail("it was started"))
    for code, output in (
        command("serve", "--host", host, "--data-dir", str(tmp_path)),
        command("serve", "--host", host, "--data-dir", str(tmp_path), "--no-keys"),
        command("serve", "--data-dir", str(tmp_path), PIPELINE_HOST=host),
    ):
        assert code == 1
        output = " ".join(output.split())
        assert all(words in output for words in (host, "keys create --owner me", "--keys", "--open-to-anyone"))


@pytest.mark.parametrize(
    "choice", [{"keys": True}, {"open_to_anyone": True}, {"PIPELINE_KEYS": "1"}, {"PIPELINE_OPEN_TO_ANYONE": "1"}]
)
def test_serve_starts_with_keys_or_confirmed_public_access(monkeypatch: pytest.MonkeyPatch, choice: dict):
    launched = []

    def launch(config: LaunchConfig) -> None:
        launched.append(config.settings.keys)
        raise LaunchError("far enough")

    monkeypatch.setattr(main, "launched", launch)
    flags = [f"--{name.replace('_', '-')}" for name in choice if name.islower()]
    environment = {name: value for name, value in choice.items() if not name.islower()}
    code, output = command("serve", "--host", "0.0.0.0", "--port", "0", "--no-ui", *flags, **environment)
    assert (code, output.strip()) == (1, "far enough")
    assert launched == ["required" if any("KEYS" in name.upper() for name in choice) else "off"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("no.such.host.invalid", False),
    ],
)
def test_loopback_hosts_are_recognized(host: str, expected: bool):
    assert is_loopback(host) is expected


def test_a_service_that_requires_keys_warns_of_missing_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = load_config(LaunchOptions(data_dir=tmp_path, keys=True, host="127.0.0.1"))
    check_exposure(config, open_to_anyone=False)
    none_yet, for_dashboard = warnings(config, with_dashboard=True)
    assert "keys create" in none_yet
    assert "PIPELINE_API_KEY" in for_dashboard
    command("keys", "create", "--owner", "me", "--data-dir", str(tmp_path))
    assert warnings(config, with_dashboard=True) == [for_dashboard]
    monkeypatch.setenv("PIPELINE_API_KEY", "aip_x")
    assert warnings(config, with_dashboard=True) == warnings(config, with_dashboard=False) == []
    open_ = load_config(LaunchOptions(data_dir=tmp_path, keys=True, host="0.0.0.0"))
    assert "Anyone who reaches the dashboard" in warnings(open_, with_dashboard=True)[0]
    assert warnings(load_config(LaunchOptions(data_dir=tmp_path)), with_dashboard=True) == []
