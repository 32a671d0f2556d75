"""Clients that load a service and count requests, failures and retries."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import httpx

from ai_pipeline_client import Client, PipelineError
from tests.cluster.running_cluster import PATIENCE, RunningCluster

SMALL = {"width": 64, "height": 64}
TOO_MANY = httpx.codes.TOO_MANY_REQUESTS


@dataclass(kw_only=True)
class Load:
    """Counts of the clients' calls and their outcomes.

    Attributes:
        sent: requests.
        broken: requests without an answer, or with one that requests a retry.
        failed: errors that calls finally raised.
        accepted: ids of jobs that were submitted without waiting for them.
    """

    sent: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    accepted: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    seeds: Iterator[int] = field(default_factory=lambda: count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, outcome: str | None) -> None:
        """Count a request, and its failure if there was one."""
        with self._lock:
            self.sent += 1
            if outcome is not None:
                self.broken[outcome] += 1

    def __str__(self) -> str:
        retried = max(0, self.broken.total() - len(self.failed))
        return (
            f"{self.sent} requests sent, {len(self.failed)} failed {self.failed}, "
            f"{retried} retried {dict(self.broken)}; answered {dict(self.answered)}, {len(self.accepted)} jobs accepted"
        )


class CountingTransport(httpx.HTTPTransport):
    """A transport that counts each request."""

    def __init__(self, load: Load) -> None:
        super().__init__()
        self._load = load

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            answer = super().handle_request(request)
        except httpx.TransportError as error:
            self._load.note(type(error).__name__)
            raise
        is_broken = answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR or answer.status_code == TOO_MANY
        self._load.note(str(answer.status_code) if is_broken else None)
        return answer


@contextmanager
def impatient_load(cluster: RunningCluster, clients: int, steps: int = 2) -> Iterator[Load]:
    """Send requests without retries until the block ends: generation, segmentation, download, jobs."""

    def work(load: Load) -> None:
        with cluster.client(transport=CountingTransport(load)) as client:
            image_id = ""
            for turn in count():
                if load.over.is_set():
                    return
                body = {"prompt": "red apple", "seed": next(load.seeds), "steps": steps, **SMALL}
                try:
                    if turn % 4 == 0:
                        image_id = send(client, load, "POST", "/generate", json=body).json()["image_id"]
                    elif turn % 4 == 1:
                        send(client, load, "POST", "/segment", json={"image_id": image_id})
                    elif turn % 4 == 2:
                        send(client, load, "GET", f"/v1/images/{image_id}/content")
                    else:
                        respond_async = {"Prefer": "respond-async"}
                        load.accepted.append(
                            send(client, load, "POST", "/generate", json=body, headers=respond_async).json()["job_id"]
                        )
                except httpx.HTTPError as error:
                    load.failed.append(f"turn {turn % 4}: {error!r}")

    with _working(work, clients) as load:
        yield load


def send(client: httpx.Client, load: Load, method: str, path: str, **options: object) -> httpx.Response:
    answer = client.request(method, path, **options)  # type: ignore[arg-type]
    if answer.is_error:
        raise httpx.HTTPStatusError(
            f"{method} {path}: {answer.status_code} {answer.text}", request=answer.request, response=answer
        )
    load.answered["content" if path.endswith("/content") else path] += 1
    return answer


@contextmanager
def patient_load(cluster: RunningCluster, clients: int) -> Iterator[Load]:
    """Call the client library, which retries transient failures, until the block ends."""

    def work(load: Load) -> None:
        with Client(cluster.url, transport=CountingTransport(load), retries=PATIENCE) as client:
            while not load.over.is_set():
                try:
                    image = client.images.generate("red apple", seed=next(load.seeds), steps=2, **SMALL)
                    load.answered["generate"] += 1
                    image.regions()
                    load.answered["regions"] += 1
                    load.accepted += [
                        job.job_id for job in client.images.submit("pear", seed=next(load.seeds), steps=2, **SMALL)
                    ]
                except PipelineError as error:
                    load.failed.append(repr(error))

    with _working(work, clients) as load:
        yield load


@contextmanager
def _working(work: Callable[[Load], None], clients: int) -> Iterator[Load]:
    load = Load()
    with ThreadPoolExecutor(clients) as pool:
        working = [pool.submit(work, load) for _ in range(clients)]
        try:
            yield load
        finally:
            load.over.set()
        for one in working:
            one.result()
