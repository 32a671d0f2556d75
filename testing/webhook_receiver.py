"""A receiver of webhooks: an HTTP server on its own port, which can be down, slow, or refuse."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from unittest.mock import patch

from standardwebhooks.webhooks import Webhook as Verifier


@dataclass(frozen=True, kw_only=True)
class Message:
    """One received request."""

    path: str
    headers: dict[str, str]
    body: bytes
    came_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> dict[str, Any]:
        """Return the payload after verifying its signature, and its age at the time of arrival."""

        class Arrival(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Self:
                at = self.came_at.astimezone(tz)
                return cls(at.year, at.month, at.day, at.hour, at.minute, at.second, at.microsecond, at.tzinfo)

        with patch("standardwebhooks.webhooks.datetime", Arrival):
            payload: dict[str, Any] = Verifier(secret).verify(self.body, self.headers)
            return payload


@dataclass
class Receiver:
    """Records every request, and answers with the status that `answer` returns and a body.

    A `declared_bytes` beyond the body's length leaves the response unfinished until the sender hangs up.
    """

    answer: Callable[[Message], int] = lambda _: 204
    body: bytes = b""
    declared_bytes: int | None = None
    messages: list[Message] = field(default_factory=list)
    port: int = 0  # any if 0; kept over restarts
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def ids(self) -> list[str]:
        """Return the ids of deliveries, without repetitions, in the order of their first arrival."""
        return [message.id for message in self.first_messages()]

    def first_messages(self) -> list[Message]:
        """Return the first message of each delivery, in that order."""
        first: dict[str, Message] = {}
        for message in list(self.messages):
            first.setdefault(message.id, message)
        return list(first.values())

    def up(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                message = Message(path=self.path, headers=headers, body=body)
                receiver.messages.append(message)
                status = receiver.answer(message)
                with suppress(ConnectionError):  # the sender may have timed out
                    self.send_response(status)
                    self.send_header("location", "/elsewhere")
                    self.send_header("set-cookie", "tracked=yes")
                    length = len(receiver.body) if receiver.declared_bytes is None else receiver.declared_bytes
                    self.send_header("content-length", str(length))
                    self.end_headers()
                    self.wfile.write(receiver.body)
                    if length > len(receiver.body):
                        self.rfile.read(1)

            def log_message(self, *args: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
