"""Which TCP ports can be had, and how copies of the service on one machine keep out of each other's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from cli.errors import LaunchError

LOOPBACK = "127.0.0.1"
BLOCKS = range(24_000, 32_000, 250)  # below what Linux gives away itself, from 32768 on


def port_problem(host: str, port: int) -> str | None:
    """Say why nothing can listen on a port, or None."""
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
    """Find a TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def own_ports() -> Iterator[range]:
    """Keep a block of ports that no other copy of the service takes; strangers may sit on single ones of it.

    Its first port, bound but never listened on, is the sign that the block is taken: the kernel takes the sign down
    however this process ends.

    Raises:
        LaunchError: every block is taken.
    """
    for first in BLOCKS:
        with socket.socket() as sign:
            try:
                sign.bind((LOOPBACK, first))
            except OSError:
                continue
            yield range(first + 1, first + BLOCKS.step)
            return
    raise LaunchError(f"All {len(BLOCKS)} blocks of ports from {BLOCKS.start} on are taken: end other copies first.")
