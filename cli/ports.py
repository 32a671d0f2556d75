"""Free TCP ports, and blocks of them that keep instances of the service on one machine apart."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from cli.errors import LaunchError

LOOPBACK = "127.0.0.1"
BLOCKS = range(24_000, 32_000, 250)  # below Linux' ephemeral ports, from 32768 on


def port_problem(host: str, port: int) -> str | None:
    """Return why a port can't be bound, or None."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror
        except OverflowError:
            return "there are ports 1 to 65535"
    return None


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def own_ports() -> Iterator[range]:
    """Reserve a block of ports among all instances of the service; other programs may use single ones of it.

    Its first port, bound but never listened on, marks the block as taken: the kernel releases it however this process
    ends.

    Raises:
        LaunchError: every block is taken.
    """
    for first in BLOCKS:
        with socket.socket() as marker:
            try:
                marker.bind((LOOPBACK, first))
            except OSError:
                continue
            yield range(first + 1, first + BLOCKS.step)
            return
    raise LaunchError(f"All {len(BLOCKS)} blocks of ports from {BLOCKS.start} on are taken: end other copies first.")
