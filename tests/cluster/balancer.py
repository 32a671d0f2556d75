"""A load balancer in front of the proxies of all nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from cli.proxies import find_haproxy
from testing.debian import ensure
from testing.ports import quiet_port

END_WITHIN_S = 120
CONFIGURATION = """
defaults
  mode http
  timeout connect 10s
  timeout client 400s
  timeout server 400s
  retries 3
  option redispatch
  option httpchk GET /-/healthz
  default-server check inter 500 fall 2 rise 1
frontend clients
  bind 127.0.0.1:{port}
  default_backend nodes
backend nodes
  timeout check 10s
{servers}
"""


@contextmanager
def balancing(folder: Path, ports: list[int]) -> Iterator[str]:
    """Run HAProxy as the load balancer of all nodes; yield its URL."""
    port = quiet_port()
    servers = "\n".join(f"  server node{i} 127.0.0.1:{node}" for i, node in enumerate(ports))
    config = folder / "balancer.cfg"
    config.write_text(CONFIGURATION.format(port=port, servers=servers))
    with (folder / "balancer.txt").open("w") as log:
        process = psutil.Popen([ensure("haproxy", find_haproxy), "-f", str(config)], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(END_WITHIN_S)
