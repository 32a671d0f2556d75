"""TCP ports for what tests start, of which no other test process hands out any, and which Linux doesn't give away."""

from __future__ import annotations

import socket

from cli.ports import BLOCKS, LOOPBACK, port_problem

BLOCK = 100
FIRSTS = range(20_000, BLOCKS.start, BLOCK)  # below those that Linux, or the service itself, gives away


class Ports:
    """Hands out the ports of a block, each once. A bound port is the sign that the block is taken.

    Programs bind their port long after it was handed out: one that was merely found free may be taken meanwhile.
    """

    def __init__(self) -> None:
        self._left: list[int] = []
        self._signs: list[socket.socket] = []

    def next(self) -> int:
        """Return a port nobody listens on."""
        while True:
            if not self._left:
                self._left = self._take_block()
            port = self._left.pop(0)
            if port_problem(LOOPBACK, port) is None:
                return port

    def _take_block(self) -> list[int]:
        for first in FIRSTS:
            sign = socket.socket()
            try:
                sign.bind((LOOPBACK, first))
            except OSError:
                sign.close()
                continue
            self._signs.append(sign)
            return list(range(first + 1, first + BLOCK))
        raise RuntimeError(f"All blocks of test ports from {FIRSTS.start} on are taken: end other test runs first.")


quiet_port = Ports().next
