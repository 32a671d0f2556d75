"""Readers of the event stream that disconnect and resume see every logged event once and in order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random

import httpx
import pytest
from httpx_sse import connect_sse

from testing.service_process import RunningService
from tests.chaos.receiver import PNG

READERS, LONG_READERS = 12, 50
WRITES, LONG_WRITES = 40, 400  # of each of two writers


def test_readers_see_every_logged_event_once_and_in_order(
    shared_service: RunningService, pytestconfig: pytest.Config, seed: int, capsys: pytest.CaptureFixture[str]
):
    is_long = pytestconfig.getoption("chaos")
    num_readers, writes = (LONG_READERS, LONG_WRITES) if is_long else (READERS, WRITES)
    total = 4 * writes  # two writers, each write and its deletion
    breaks = 0

    def read(after: int, random: Random) -> list[int]:
        nonlocal breaks
        seen: list[int] = []
        while len(seen) < total:
            remaining = random.randint(1, total // 4)
            known = {"Last-Event-ID": str(seen[-1] if seen else after)}
            with (
                suppress(httpx.TransportError),
                shared_service.client() as client,
                connect_sse(client, "GET", "/v1/events", headers=known) as source,
            ):
                for event in source.iter_sse():
                    if not event.data or "sequence" not in event.json():
                        continue  # a heartbeat or a step
                    seen.append(event.json()["sequence"])
                    remaining -= 1
                    if remaining == 0 or len(seen) == total:
                        breaks += 1
                        break
        return seen

    def write() -> None:
        with shared_service.client() as client:
            for _ in range(writes):
                kind = {"Content-Type": "image/png"}
                made = client.post("/v1/images/upload", content=PNG, headers=kind).raise_for_status().json()
                client.delete(f"/v1/images/{made['image_id']}").raise_for_status()

    newest = newest_sequence(shared_service)
    with ThreadPoolExecutor(num_readers + 2) as pool:
        readers = [pool.submit(read, newest, Random(f"{seed} {i}")) for i in range(num_readers)]
        for writer in [pool.submit(write) for _ in range(2)]:
            writer.result()
        read_by_all = [reader.result() for reader in readers]
    with capsys.disabled():
        print(f"\nseed {seed}: {num_readers} readers, {total} events, {breaks} disconnects", end="")
    for seen in read_by_all:
        assert seen == list(range(newest + 1, newest + 1 + total)), f"seed {seed}"


def newest_sequence(service: RunningService) -> int:
    """Return the sequence number of the last logged event."""
    with service.client() as client, connect_sse(client, "GET", "/v1/events", params={"follow": False}) as source:
        events = [event.json() for event in source.iter_sse() if event.data]
    return max((event["sequence"] for event in events if "sequence" in event), default=0)
