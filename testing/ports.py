"""TCP ports for servers of tests, unique among test processes and outside Linux's ephemeral range."""

from __future__ import annotations

import socket

from cli.ports import BLOCKS, LOOPBACK, port_problem

BLOCK = 100
FIRSTS = range(20_000, BLOCKS.start, BLOCK)  # below those that Linux or the service itself assigns


class Ports:
    """Allocates the ports of a block, each once. A bound port marks the block as taken.

    Programs bind their port long after it was allocated: a port that was only found free may be taken meanwhile.
    """

    def __init__(self) -> None:
        self._left: list[int] = []
        self._markers: list[socket.socket] = []

    def next(self) -> int:
        """Return a port that no process listens on."""
        while True:
            if not self._left:
                self._left = self._take_block()
            port = self._left.pop(0)
            if port_problem(LOOPBACK, port) is None:
                return port

    def _take_block(self) -> list[int]:
        for first in FIRSTS:
            marker = socket.socket()
            try:
                marker.bind((LOOPBACK, first))
            except OSError:
                marker.close()
                continue
            self._markers.append(marker)
            return list(range(first + 1, first + BLOCK))
        raise RuntimeError(f"All blocks of test ports from {FIRSTS.start} on are taken: end other test runs first.")


quiet_port = Ports().next
