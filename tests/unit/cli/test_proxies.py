"""The environment that configures HAProxy for Ray, and the shim that changes Ray's configuration of it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from ray.serve._private.haproxy import HAProxyApi, HAProxyConfig
from ray.serve.config import HTTPOptions
from typer.testing import CliRunner

from cli import haproxy_shim, main, proxies
from cli.config import LaunchOptions, load_config
from cli.environment import child_environment
from cli.errors import LaunchError
from cli.haproxy_shim import rebound
from cli.launcher import join
from cli.ports import own_ports
from cli.proxies import Proxy, ProxyKind, find_haproxy, prepared_proxy
from testing.service_process import wait_until

PORTS = {haproxy_shim.STATS_PORT: "8404", haproxy_shim.METRICS_PORT: "9101"}
NOWHERE = {"RAY_SERVE_HAPROXY_BINARY_PATH": "/nowhere/haproxy"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path as short as those of launches."""
    with tempfile.TemporaryDirectory(prefix="aip-") as path:
        yield Path(path)


def haproxy(stack: ExitStack, folder: Path, host: str = "127.0.0.1") -> Proxy:
    return stack.enter_context(
        prepared_proxy(ProxyKind.HAPROXY, host=host, port=8000, folder=folder, request_within_s=12.5)
    )


def test_the_plain_proxy_only_disables_haproxy(folder: Path):
    with prepared_proxy(ProxyKind.PLAIN, host="0.0.0.0", port=8000, folder=folder, request_within_s=10) as proxy:
        assert proxy == Proxy(host="0.0.0.0", environment={"RAY_SERVE_ENABLE_HA_PROXY": "0"})
    assert list(folder.iterdir()) == []


def test_serve_listens_on_loopback_behind_haproxy(folder: Path):
    with ExitStack() as stack:
        proxy = haproxy(stack, folder, host="0.0.0.0")
    assert proxy.host == "127.0.0.1"
    assert proxy.environment[haproxy_shim.ADDRESS] == "0.0.0.0:8000"


def test_a_reload_waits_for_requests_in_flight(folder: Path):
    with ExitStack() as stack:
        assert haproxy(stack, folder).environment["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] == "13"


def test_haproxy_s_sockets_are_private_to_the_user(folder: Path):
    with ExitStack() as stack:
        proxy = haproxy(stack, folder)
    for name in ("SOCKET_PATH", "METRICS_SOCKET_PATH", "CONFIG_FILE_LOC"):
        private = Path(proxy.environment[f"RAY_SERVE_HAPROXY_{name}"]).parent
        assert private.is_relative_to(folder)
        assert private.stat().st_mode & 0o777 == 0o700


def test_two_services_share_no_port_and_no_path(folder: Path):
    with ExitStack() as stack:
        environments = []
        for name in ("1", "2"):
            (folder / name).mkdir()
            environments.append(haproxy(stack, folder / name).environment)
    ports = []
    for environment in environments:
        lowest, highest = (int(environment[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX"))
        assert highest - lowest > 200
        single = {
            int(value) for name, value in environment.items() if re.search(r"(STATS|METRICS|PROXY_HTTP)_PORT$", name)
        }
        assert len(single) == 3
        ports.append(single | set(range(lowest, highest + 1)))
    assert not ports[0] & ports[1]
    first, second = environments
    shared = {name for name in first if first[name] == second[name]}
    assert not [name for name in shared if "PATH" in name.replace("BINARY_PATH", "") or "_PORT" in name]


def test_a_block_of_ports_is_released():
    with own_ports() as first, own_ports() as second:
        assert not set(first) & set(second)
    with own_ports() as again:
        assert again == first


def test_the_environment_overrides_defaults(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", "1")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "8404")  # except ports, which must be unique …
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")  # … and the option's own variable
    with ExitStack() as stack:
        environment = haproxy(stack, folder).environment
    assert environment["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] == "1"
    assert environment["RAY_SERVE_HAPROXY_STATS_PORT"] != "8404"
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"


def test_variables_are_restored(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIP_A", "1")
    monkeypatch.delenv("AIP_B", raising=False)
    with child_environment({"AIP_A": "2", "AIP_B": "3"}):
        assert (os.environ["AIP_A"], os.environ["AIP_B"]) == ("2", "3")
    assert (os.environ["AIP_A"], os.environ.get("AIP_B")) == ("1", None)


def test_a_path_too_long_for_sockets_raises(folder: Path):
    deep = folder / ("d" * 30)
    deep.mkdir()
    with ExitStack() as stack, pytest.raises(LaunchError, match="TMPDIR"):
        haproxy(stack, deep)


def test_a_missing_haproxy_raises_with_advice(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(*next(iter(NOWHERE.items())))
    with ExitStack() as stack, pytest.raises(LaunchError, match="apt-get install haproxy"):
        haproxy(stack, folder)


@pytest.mark.parametrize(("ingress", "verdict"), [("plain", "ok"), ("haproxy", "no")])
def test_the_doctor_requires_haproxy_only_for_its_ingress(ingress: str, verdict: str, tmp_path: Path):
    arguments = ["doctor", "--port", "0", "--data-dir", str(tmp_path), "--ingress", ingress]
    output = CliRunner().invoke(main.app, arguments, env=NOWHERE, terminal_width=300).stdout
    assert re.search(rf"{verdict}\s+HAProxy\s+not installed", output), output


def test_joining_a_cluster_refuses_an_ingress_option():
    with pytest.raises(LaunchError, match=r"docs/deployment\.md"):
        join("somewhere:6379", load_config(LaunchOptions(ingress=ProxyKind.HAPROXY)), lambda _: None)


def write_ray_configuration(folder: Path, host: str, port: int) -> Path:
    """Have Ray write HAProxy's configuration."""
    path = folder / "haproxy.cfg"

    async def write() -> None:
        options = HTTPOptions(host=host, port=port)
        config = HAProxyConfig(
            http_options=options, is_head=True, stats_port=8404, metrics_port=9101, socket_path=str(folder / "a"),
            metrics_socket_path=str(folder / "m"), server_state_base=str(folder), server_state_file=str(folder / "s"),
        )  # fmt: skip
        HAProxyApi(config, config_file_path=str(path))._generate_config_file_internal()

    asyncio.run(write())
    return path


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "0.0.0.0:8000", "[::1]:8000"])
def test_haproxy_binds_the_address_and_loopback_only(folder: Path, address: str):
    path = write_ray_configuration(folder, "127.0.0.1", 8000)
    binary = find_haproxy()
    assert binary
    environment = PORTS | {haproxy_shim.BINARY: binary, haproxy_shim.ADDRESS: address}

    checked = subprocess.run([proxies.SHIM, "-c", "-f", path], env=environment, capture_output=True, text=True)

    assert checked.returncode == 0, checked.stderr
    bound = re.findall(r"^\s+bind (\S+)", path.read_text(), re.MULTILINE)
    assert sorted(bound) == sorted([address, "127.0.0.1:8404", "127.0.0.1:9101"])


@pytest.mark.parametrize("address", [{}, {haproxy_shim.ADDRESS: "127.0.0.1:8000"}], ids=["cluster", "one machine"])
def test_splicing_is_disabled_so_that_disconnects_are_noticed(folder: Path, address: dict[str, str]):
    path = write_ray_configuration(folder, "127.0.0.1", 8000)
    assert "option splice-request" in path.read_text()  # else the shim is not needed
    binary = folder / "haproxy"
    binary.write_text('#!/bin/sh\necho "$@"\n')
    binary.chmod(0o700)
    environment = os.environ | PORTS | address | {haproxy_shim.BINARY: str(binary)}

    output = subprocess.run([proxies.SHIM, "-db", "-f", path], env=environment, capture_output=True, text=True).stdout

    assert output.split() == ["-db", "-f", str(path), "-dS"]


def test_without_a_binary_the_shim_runs_the_bundled_haproxy():
    environment = os.environ | {"RAY_SERVE_HAPROXY_BINARY_PATH": str(proxies.SHIM)}
    completed = subprocess.run([proxies.SHIM, "-v"], env=environment, capture_output=True, text=True)
    assert completed.stdout.startswith("HAProxy version")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux notifies a process of its parent's death")
def test_haproxy_exits_with_its_parent(folder: Path):
    path = write_ray_configuration(folder, "127.0.0.1", 8000)
    binary = folder / "haproxy"
    binary.write_text("#!/bin/sh\nexec sleep 600\n")
    binary.chmod(0o700)
    environment = os.environ | PORTS | {haproxy_shim.BINARY: str(binary), haproxy_shim.ADDRESS: "127.0.0.1:8000"}
    run = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    parent = psutil.Popen([sys.executable, "-c", run, str(proxies.SHIM), "-f", str(path)], env=environment)
    wait_until(lambda: [child.name() for child in parent.children()] == ["sleep"])
    children = parent.children()

    parent.kill()

    assert psutil.wait_procs(children, timeout=60)[0] == children
    parent.wait()


@pytest.mark.parametrize(
    "configuration",
    ["frontend http_frontend\n    bind *:8000\nfrontend new\n    bind :9\n", "listen stats\n  bind :8404\n"],
    ids=["another listens", "one doesn't"],
)
def test_an_unexpected_configuration_is_refused(configuration: str):
    with pytest.raises(SystemExit, match="listen"):
        rebound(configuration, {"http_frontend": "127.0.0.1:8000"})
