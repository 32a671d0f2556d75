"""What Prometheus' answers become."""

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


def test_what_is_known_is_given(prometheus: Prometheus):
    assert prometheus.get("known") == {"result": []}


def test_a_query_that_it_does_not_understand_is_explained(prometheus: Prometheus):
    with pytest.raises(PrometheusError, match="parse error"):
        prometheus.get("misspelt")


def test_one_that_is_still_starting_is_told_apart_from_one_without_data(prometheus: Prometheus):
    with pytest.raises(PrometheusError, match="503 Service Unavailable"):
        prometheus.get("starting")
