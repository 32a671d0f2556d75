"""Submission of jobs, and a thread that kills random processes of the service meanwhile."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress
from random import Random

import httpx
import psutil

from testing.service_process import RunningService, wait_until
from tests.chaos.ledger import Listed
from tests.chaos.verification import listed_images

VICTIMS = {
    "model replica": tuple(
        f"ray::ServeReplica:pipeline:{name}" for name in ("Diffusion", "Clip", "Segmenter", "Renderer")
    ),
    "ingress replica": ("ray::ServeReplica:pipeline:Ingress",),
    "cache": ("ray::SegmentationCache",),
    "event hub": ("ray::EventHub",),
    "controller": ("ray::ServeController",),
}
PROMPT = "red apple"
PAGE = 100


class Killer(threading.Thread):
    """Kills a random process of the service with `kill -9` every few seconds."""

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


def submit(service: RunningService, image_seed: int, steps: int) -> str:
    """Submit a job with retries and return its id; the idempotency key ensures that it is accepted once."""
    body = {"prompt": PROMPT, "seed": image_seed, "steps": steps, "width": 64, "height": 64}
    headers = {"Prefer": "respond-async", "Idempotency-Key": f"image-{image_seed}"}
    found: list[str] = []

    def attempt() -> bool:
        with suppress(httpx.TransportError), service.client() as client:
            answer = client.post("/generate", json=body, headers=headers)
            if answer.status_code == httpx.codes.ACCEPTED:
                found.append(answer.json()["job_id"])
            else:
                assert answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR, answer.text
        return bool(found)

    wait_until(attempt)
    return found[0]


def num_unfinished(service: RunningService) -> int:
    """Return the number of queued and running jobs, at most a page, once the service answers."""
    found: list[int] = []

    def attempt() -> bool:
        with suppress(httpx.HTTPError, KeyError, ValueError), service.client() as client:
            answer = client.get("/v1/jobs", params={"state": ["queued", "running"], "limit": PAGE})
            found.append(len(answer.raise_for_status().json()["jobs"]))
        return bool(found)

    wait_until(attempt)
    return found[0]


def made_images(client: httpx.Client) -> list[Listed]:
    """Return the images made by jobs of this module."""
    listed = listed_images(client).values()
    return [image for image in listed if image["request"] and image["request"]["prompt"] == PROMPT]
