"""Decoding of Prometheus' answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from monitoring.prometheus import Prometheus, PrometheusError

ANSWERS = {
    "known": (200, "application/json", json.dumps({"status": "success", "data": {"result": []}})),
    "misspelt": (400, "application/json", json.dumps({"status": "error", "error": "parse error"})),
    "starting": (503, "text/plain; charset=utf-8", "Service Unavailable"),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, content_type, text = ANSWERS[self.path.removeprefix("/api/v1/")]
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with Prometheus(f"http://127.0.0.1:{server.server_port}", "1m") as prometheus:
            yield prometheus
        server.shutdown()


def test_results_are_returned(prometheus: Prometheus):
    assert prometheus.get("known") == {"result": []}


def test_an_invalid_query_raises_with_an_explanation(prometheus: Prometheus):
    with pytest.raises(PrometheusError, match="parse error"):
        prometheus.get("misspelt")


def test_a_starting_server_is_distinguished_from_one_without_data(prometheus: Prometheus):
    with pytest.raises(PrometheusError, match="503 Service Unavailable"):
        prometheus.get("starting")
