"""The command line's keys, and its refusal to be open to anyone by accident. Nothing here starts Ray."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import main
from cli.errors import LaunchError
from cli.exposure import check_exposure, is_loopback, warnings
from cli.launcher import LaunchOptions, read_config
from pipeline.settings import ServiceSettings, StorageSettings
from pipeline.store import open_store

VARIABLES = ("KEYS", "OPEN_TO_ANYONE", "HOST", "DATA_DIR", "DATABASE", "BLOBS")
ENVIRONMENT = {f"PIPELINE_{name}": "" for name in VARIABLES}


def command(*arguments: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(main.app, arguments, env=ENVIRONMENT | environment)
    return result.exit_code, result.stdout


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPELINE_API_KEY", raising=False)


def test_a_key_is_made_shown_once_listed_and_revoked(tmp_path: Path):
    here = ("--data-dir", str(tmp_path))
    code, said = command("keys", "create", "--owner", "ann", "--name", "my [laptop]", *here)
    assert code == 0
    (token,) = re.findall(r"^aip_\S+$", said, re.MULTILINE)
    assert "this once" in said
    store = open_store(ServiceSettings(data_dir=tmp_path, storage=StorageSettings()))
    (key,) = store.keys.list()
    assert (store.keys.owner_of(token), key.name) == ("ann", "my [laptop]")

    code, said = command("keys", "list", *here)
    assert code == 0
    assert key.key_id in said
    assert "my [laptop]" in said
    assert token not in said

    code, said = command("keys", "revoke", key.key_id, *here)
    assert code == 0
    assert "10 s" in said
    assert store.keys.owner_of(token) is None
    store.log.engine.dispose()


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [(("create", "--owner", "a/b"), "letters, digits"), (("revoke", "nonsense"), "keys list")],
)
def test_what_cannot_be_done_is_said_in_a_sentence(tmp_path: Path, arguments: tuple[str, ...], advice: str):
    code, said = command("keys", *arguments, "--data-dir", str(tmp_path))
    assert code == 1
    assert advice in " ".join(said.split())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_serve_refuses_to_be_open_to_anyone_by_accident(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str):
    monkeypatch.setattr(main, "launched", lambda *_: pytest.fail("it was started"))
    for code, said in (
        command("serve", "--host", host, "--data-dir", str(tmp_path)),
        command("serve", "--host", host, "--data-dir", str(tmp_path), "--no-keys"),
        command("serve", "--data-dir", str(tmp_path), PIPELINE_HOST=host),
    ):
        assert code == 1
        said = " ".join(said.split())
        assert all(words in said for words in (host, "keys create --owner me", "--keys", "--open-to-anyone"))


@pytest.mark.parametrize(
    "choice", [{"keys": True}, {"open_to_anyone": True}, {"PIPELINE_KEYS": "1"}, {"PIPELINE_OPEN_TO_ANYONE": "1"}]
)
def test_serve_goes_on_if_keys_are_wanted_or_openness_is_meant(monkeypatch: pytest.MonkeyPatch, choice: dict):
    launched = []

    def launch(options: LaunchOptions) -> None:
        launched.append(read_config(options)["applications"][0]["args"].get("keys", "off"))
        raise LaunchError("far enough")

    monkeypatch.setattr(main, "launched", launch)
    flags = [f"--{name.replace('_', '-')}" for name in choice if name.islower()]
    environment = {name: value for name, value in choice.items() if not name.islower()}
    code, said = command("serve", "--host", "0.0.0.0", "--port", "0", "--no-ui", *flags, **environment)
    assert (code, said.strip()) == (1, "far enough")
    assert launched == ["required" if any("KEYS" in name.upper() for name in choice) else "off"]


@pytest.mark.parametrize(
    ("host", "is_own"),
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
def test_what_is_this_machine_alone(host: str, is_own: bool):
    assert is_loopback(host) is is_own


def test_a_service_that_wants_keys_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = LaunchOptions(data_dir=tmp_path, keys=True, host="127.0.0.1")
    check_exposure(options, open_to_anyone=False)
    none_yet, for_dashboard = warnings(options, with_dashboard=True)
    assert "keys create" in none_yet
    assert "PIPELINE_API_KEY" in for_dashboard
    command("keys", "create", "--owner", "me", "--data-dir", str(tmp_path))
    assert warnings(options, with_dashboard=True) == [for_dashboard]
    monkeypatch.setenv("PIPELINE_API_KEY", "aip_x")
    assert warnings(options, with_dashboard=True) == warnings(options, with_dashboard=False) == []
    open_ = LaunchOptions(data_dir=tmp_path, keys=True, host="0.0.0.0")
    assert "Whoever reaches the dashboard" in warnings(open_, with_dashboard=True)[0]
    assert warnings(LaunchOptions(data_dir=tmp_path), with_dashboard=True) == []
