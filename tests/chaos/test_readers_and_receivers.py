"""Everybody is told everything: readers of the event stream that break off and come back, and a webhook's receiver
that is away while the service is restarted."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import httpx
import numpy as np
import pytest
from httpx_sse import connect_sse
from standardwebhooks.webhooks import Webhook

from cli.ports import free_port
from pipeline.images import encode_png
from tests.service_process import RunningService, serving, wait_until

PNG = encode_png(np.zeros((64, 64, 3), np.uint8))
READERS, LONG_READERS = 12, 50
WRITES, LONG_WRITES = 40, 400  # of each of two writers
ALL_WITHIN_S = 600.0
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("chaos"))


def test_readers_see_every_fact_once_and_in_order(
    tmp_path: Path, is_long: bool, seed: int, capsys: pytest.CaptureFixture[str]
):
    num_readers, writes = (LONG_READERS, LONG_WRITES) if is_long else (READERS, WRITES)
    total = 4 * writes  # two writers, each write and its deletion
    breaks = 0

    def read(service: RunningService, random: Random) -> list[int]:
        nonlocal breaks
        seen: list[int] = []
        while len(seen) < total:
            patience = random.randint(1, total // 4)
            after = str(seen[-1] if seen else 0)
            with (
                suppress(httpx.TransportError),
                service.client() as client,
                connect_sse(client, "GET", "/v1/events", headers={"Last-Event-ID": after}) as source,
            ):
                for event in source.iter_sse():
                    if not event.data:
                        continue  # a heartbeat
                    seen.append(event.json()["sequence"])
                    patience -= 1
                    if patience == 0 or len(seen) == total:
                        breaks += 1
                        break
        return seen

    def write(service: RunningService) -> None:
        with service.client() as client:
            for _ in range(writes):
                image_id = upload(client)
                client.delete(f"/v1/images/{image_id}").raise_for_status()

    started = time.monotonic()
    with serving(tmp_path) as service, ThreadPoolExecutor(num_readers + 2) as pool:
        readers = [pool.submit(read, service, Random(f"{seed} {i}")) for i in range(num_readers)]
        writers = [pool.submit(write, service) for _ in range(2)]
        for writer in writers:
            writer.result(ALL_WITHIN_S)
        told = [reader.result(ALL_WITHIN_S) for reader in readers]
    with capsys.disabled():
        took = time.monotonic() - started
        print(f"\nseed {seed}: {num_readers} readers, {total} facts, {breaks} times broken off, {took:.0f} s", end="")
    for seen in told:
        assert seen == list(range(1, total + 1)), f"seed {seed}"


def test_a_receiver_that_was_away_is_told_everything(tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]):
    random = Random(seed)
    port = free_port()
    expected: dict[str, list[str]] = {}
    told: list[tuple[str, str, str]] = []
    started = time.monotonic()

    def change(client: httpx.Client) -> None:
        image_id = upload(client)
        expected[image_id] = ["image.created"]
        if random.random() < 0.7:
            client.delete(f"/v1/images/{image_id}").raise_for_status()
            expected[image_id].append("image.deleted")

    with serving(tmp_path, "--allow-private-webhooks") as service, service.client() as client:
        body = {"url": f"http://127.0.0.1:{port}/", "types": ["image.created", "image.deleted"], "secret": SECRET}
        client.post("/v1/webhooks", json=body).raise_for_status()
        with receiving(port, told):
            for _ in range(5):
                change(client)
            wait_until(lambda: len(told) >= 3)
        for _ in range(10):  # nobody listens
            change(client)
        service.kill_everything()
    with serving(tmp_path, "--allow-private-webhooks") as service, service.client() as client:
        for _ in range(5):
            change(client)
        with receiving(port, told):
            num_expected = sum(map(len, expected.values()))
            wait_until(lambda: len({delivery for delivery, _, _ in told}) >= num_expected, ALL_WITHIN_S)
    with capsys.disabled():
        took = time.monotonic() - started
        print(f"\nseed {seed}: {num_expected} events for a receiver, {len(told)} told, {took:.0f} s", end="")

    order: defaultdict[str, list[str]] = defaultdict(list)
    for _, image_id, kind in dict.fromkeys(told):  # one may be told twice: the id says so
        order[image_id].append(kind)
    assert order == expected, f"seed {seed}"


@contextmanager
def receiving(port: int, told: list[tuple[str, str, str]]) -> Iterator[None]:
    """Receive webhooks while the block runs, and check every signature with the public library."""
    webhook = Webhook(SECRET)

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            webhook.verify(body, dict(self.headers))  # raises, which the sender takes for a failure
            event = json.loads(body)
            told.append((self.headers["webhook-id"], event["data"]["image_id"], event["type"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        allow_reuse_address = True

    with Server(("127.0.0.1", port), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def upload(client: httpx.Client) -> str:
    answer = client.post("/v1/images/upload", content=PNG, headers={"Content-Type": "image/png"}).raise_for_status()
    image_id: str = answer.json()["image_id"]
    return image_id
