"""Accepted jobs, while a random part of the service is killed every few seconds and everything in the end.

None is lost, none has two results, none hangs. `./scripts/test --chaos` does it with 200 jobs.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from httpx_sse import connect_sse

from pipeline.images import encode_png
from pipeline.jobs import MAX_ATTEMPTS
from tests.chaos.verification import unfinished
from tests.service_process import RunningService, serving, wait_until

VICTIMS = {
    "model replica": tuple(
        f"ray::ServeReplica:pipeline:{name}" for name in ("Diffusion", "Clip", "Segmenter", "Renderer")
    ),
    "ingress replica": ("ray::ServeReplica:pipeline:Ingress",),
    "cache": ("ray::SegmentationCache",),
    "event hub": ("ray::EventHub",),
    "controller": ("ray::ServeController",),
}
KILL_EVERY_S, LONG_KILL_EVERY_S = 3.0, 5.0
SUBMIT_WITHIN_S = 120.0
ALL_WITHIN_S = 1200.0
JOBS, LONG_JOBS = 24, 200
STEPS, LONG_STEPS = 100, 15  # the profile's own in the long run; more in the short one, or it would be over too soon
IN_HAND = 16  # of two ingress replicas
FEWEST_KILLS, KILLS = 2, 4  # in the short run


class Killer(threading.Thread):
    """Ends a random process of the service with `kill -9` every few seconds."""

    def __init__(self, service: RunningService, random: Random, every_s: float) -> None:
        super().__init__(daemon=True)
        self._every_s = every_s
        self.killed: Counter[str] = Counter()
        self.over = threading.Event()
        self._service = service
        self._random = random

    def run(self) -> None:
        while not self.over.wait(self._every_s):
            what = self._random.choice([*VICTIMS])
            processes = [process for title in VICTIMS[what] for process in self._service.processes(title)]
            if processes:
                with suppress(psutil.NoSuchProcess):
                    self._random.choice(processes).kill()
                    self.killed[what] += 1


@pytest.fixture
def number(request: pytest.FixtureRequest) -> int:
    return LONG_JOBS if request.config.getoption("chaos") else JOBS


def test_accepted_jobs_survive_kills(tmp_path: Path, number: int, seed: int, capsys: pytest.CaptureFixture[str]):
    random = Random(seed)
    accepted: dict[int, str] = {}  # job ids by the image's seed
    started = time.monotonic()
    with serving(tmp_path) as service:
        is_long = number == LONG_JOBS
        killer = Killer(service, random, LONG_KILL_EVERY_S if is_long else KILL_EVERY_S)
        killer.start()
        for image_seed in range(number):
            accepted[image_seed] = submitted(service, image_seed, LONG_STEPS if is_long else STEPS)
        enough = number if is_long else KILLS

        def is_over() -> bool:
            killed = killer.killed.total()
            # As many as are in hand may end at once.
            return killed >= enough or (killed >= FEWEST_KILLS and left(service) <= IN_HAND)

        wait_until(is_over, ALL_WITHIN_S)
        killer.over.set()
        killer.join()
        remaining = left(service)
        service.kill_everything()

    with serving(tmp_path) as service, service.client() as client:
        wait_until(lambda: not unfinished(client), ALL_WITHIN_S)
        jobs = {job_id: client.get(f"/v1/jobs/{job_id}").json() for job_id in accepted.values()}
        dead = [job["url"] for job in jobs.values() if job["state"] == "dead"]  # three workers died under each
        for url in dead:
            client.post(f"{url}/retry").raise_for_status()
        wait_until(lambda: not unfinished(client), ALL_WITHIN_S)
        jobs = {job_id: client.get(f"/v1/jobs/{job_id}").json() for job_id in accepted.values()}
        seeds = Counter(image["request"]["seed"] for image in images(client))
        events = logged(client)
    with capsys.disabled():
        attempts = Counter(job["attempts"] for job in jobs.values())
        print(
            f"\nseed {seed}: {number} jobs accepted, killed {dict(killer.killed)}, {remaining} left when everything was"
            f" killed; jobs by attempts {dict(sorted(attempts.items()))}, {len(dead)} quarantined and begun again;"
            f" {time.monotonic() - started:.0f} s",
            end="",
        )
    about = f"seed {seed}"
    assert killer.killed.total() >= FEWEST_KILLS, about
    assert remaining, about
    # It takes three kills to lose one: the last of all, and two before, which in the short run may meet the same jobs.
    met = killer.killed["ingress replica"] + killer.killed["model replica"]
    assert len(dead) <= max(3, number // 8) or (not is_long and met >= MAX_ATTEMPTS - 1), about
    assert {job["state"] for job in jobs.values()} == {"succeeded"}, about
    assert seeds == Counter(range(number)), about
    succeeded = Counter(event["job_id"] for event in events if event["type"] == "job.succeeded")
    assert succeeded == Counter(accepted.values()), about
    created = {event["job_id"]: event["image_id"] for event in events if event["type"] == "image.created"}
    assert created == {job_id: job["result"]["image_id"] for job_id, job in jobs.items()}, about


def submitted(service: RunningService, image_seed: int, steps: int) -> str:
    """Submit a job until the service accepts it; the key makes sure that it does so once."""
    body = {"prompt": "red apple", "seed": image_seed, "steps": steps, "width": 64, "height": 64}
    headers = {"Prefer": "respond-async", "Idempotency-Key": f"image-{image_seed}"}
    found: list[str] = []

    def attempt() -> bool:
        with suppress(httpx.TransportError), httpx.Client(base_url=service.url, timeout=10) as client:
            answer = client.post("/generate", json=body, headers=headers)
            if answer.status_code == httpx.codes.ACCEPTED:
                found.append(answer.json()["job_id"])
            else:
                assert answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR, answer.text
        return bool(found)

    wait_until(attempt, SUBMIT_WITHIN_S)
    return found[0]


def left(service: RunningService) -> int:
    """How many jobs wait or are worked on, as far as the service can say now."""
    with suppress(httpx.HTTPError, KeyError, ValueError), httpx.Client(base_url=service.url, timeout=10) as client:
        answer = client.get("/v1/jobs", params={"state": ["queued", "running"], "limit": 100}).raise_for_status()
        return len(answer.json()["jobs"])
    return LONG_JOBS


def images(client: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    before: dict[str, str] = {}
    while True:
        page = client.get("/v1/images", params={"limit": "100", **before}).raise_for_status().json()
        found += page["images"]
        if page["next"] is None:
            return found
        before = {"before": page["next"]}


def logged(client: httpx.Client) -> list[dict[str, Any]]:
    """The event log up to now, which an upload marks."""
    png = encode_png(np.zeros((64, 64, 3), np.uint8))
    mark = (
        client.post("/v1/images/upload", content=png, headers={"Content-Type": "image/png"}).raise_for_status().json()
    )
    found: list[dict[str, Any]] = []
    with connect_sse(client, "GET", "/v1/events", params={"after": 0}) as source:
        for event in source.iter_sse():
            if not event.data:
                continue  # a heartbeat
            found.append(event.json() | {"type": event.event})
            if found[-1].get("image_id") == mark["image_id"]:
                break
    return found[:-1]
