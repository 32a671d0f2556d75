"""Dashboards under a real load with failures: `python -m benchmarks monitoring --minutes 4 --out plots`.

Starts a service and a Prometheus, runs clients on all routes while replicas, cache and a webhook's receiver fail, then
runs every query of every dashboard, evaluates every rule, compares the dashboards' p99 with the one measured by the
clients, and plots the dashboards.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
import numpy as np

from benchmarks.service.overview import show
from graphs.observability.metrics import SECONDS
from monitoring.grafana import BOARDS
from monitoring.panels import quantiles
from monitoring.plots import draw
from monitoring.prometheus import Prometheus
from testing.prometheus_server import names_in, names_known, scraping, unanswered, unwell_rules
from testing.service_process import RunningService, changed_config, serving
from testing.webhook_receiver import Receiver

CACHE_BYTES = 200_000  # the results of a few images, to cause evictions
SCRAPE_S = 2
RATE_OVER = "15s"
CROWD = 40
P99_OF = ("/generate", "/segment", "/visualize")


class Load:
    """Clients that call until they are stopped, with the latencies of each route, in seconds."""

    def __init__(self, service: RunningService, receiver: Receiver) -> None:
        self.waited: defaultdict[str, list[float]] = defaultdict(list)
        self.answers: defaultdict[int, int] = defaultdict(int)
        self._service = service
        self._receiver = receiver
        self._stopped = threading.Event()
        self._seeds = count(1)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the clients run until the block ends."""
        with self._service.client() as client:
            types = ["image.created", "job.succeeded"]
            client.post("/v1/webhooks", json={"url": self._receiver.url, "types": types}).raise_for_status()
        clients = (self._make, self._make, self._take_apart, self._watch, self._come_back, self._err)
        with ThreadPoolExecutor(len(clients)) as pool:
            futures = [pool.submit(self._repeat, client, str(i)) for i, client in enumerate(clients)]
            try:
                yield
            finally:
                self._stopped.set()
        for future in futures:
            future.result()

    def crowd(self) -> None:
        """Send more concurrent requests than admission accepts."""
        with ThreadPoolExecutor(CROWD) as pool:
            list(pool.map(lambda i: self._once(self._make, f"crowd-{i}"), range(CROWD)))

    def _repeat(self, work: Callable[[httpx.Client], None], session: str) -> None:
        while not self._stopped.is_set():
            self._once(work, session)

    def _once(self, work: Callable[[httpx.Client], None], session: str) -> None:
        with self._service.client(headers={"X-Session-ID": session}) as client:
            work(client)

    def _post(self, client: httpx.Client, path: str, **body: Any) -> httpx.Response:
        started = time.monotonic()
        answer = client.post(path, json=body or None)
        self.waited[path].append(time.monotonic() - started)
        self.answers[answer.status_code] += 1
        return answer

    def _make(self, client: httpx.Client) -> None:
        self._post(client, "/generate", prompt="red apple in white plate", seed=next(self._seeds))

    def _take_apart(self, client: httpx.Client) -> None:
        self._post(client, "/generate", prompt="pear", seed=next(self._seeds), steps=3)
        for path in ("/segment", "/segment", "/visualize", "/visualize", "/analyze"):
            self._post(client, path)
        self._post(client, "/probe", prompt="green")

    def _watch(self, client: httpx.Client) -> None:
        body = {"prompt": "cup", "stream": True, "partial_images": 2, "seed": next(self._seeds)}
        client.post("/v1/images/generations", json=body)

    def _come_back(self, client: httpx.Client) -> None:
        body = {"prompt": "pear", "seed": next(self._seeds), "steps": 8}
        job = client.post("/generate", json=body, headers={"Prefer": "respond-async"}).headers.get("location")
        if job is not None:
            client.get(f"{job}/events")  # ends with the job

    def _err(self, client: httpx.Client) -> None:
        self._post(client, "/generate", prompt="")
        client.get("/v1/images/00000000-0000-0000-0000-000000000000")
        self._stopped.wait(2)


def fail(service: RunningService, load: Load, receiver: Receiver, minutes: float) -> None:
    """Inject one failure after the other."""
    part_s = 60 * minutes / 6

    def kill(title: str) -> None:
        for process in service.processes(title):
            process.kill()

    def pause_cache() -> None:
        with service.paused("ray::SegmentationCache"):
            time.sleep(5)

    def refuse() -> None:
        receiver.answer = lambda _: 500

    def kill_both() -> None:
        kill("pipeline:Diffusion")
        kill("ray::SegmentationCache")

    happenings: tuple[tuple[str, Callable[[], object]], ...] = (
        ("nothing", lambda: None),
        ("a crowd comes", load.crowd),
        ("the segmenter dies", partial(kill, "ray::ServeReplica:pipeline:Segmenter")),
        ("the cache stops for 5 s", pause_cache),
        ("the webhook's receiver refuses", refuse),
        ("diffusion and the cache die", kill_both),
    )
    for what, happens in happenings:
        print(f"  {time.strftime('%H:%M:%S')} {what}", flush=True)
        started = time.monotonic()
        happens()
        time.sleep(max(0.0, part_s - (time.monotonic() - started)))


def compare_p99(prometheus: Prometheus, load: Load, since: float) -> None:
    """Compare the dashboards' p99 with the clients'."""
    whole = f"{int(time.time() - since)}s"
    for route in P99_OF:
        (query,) = quantiles("ray_pipeline_request_seconds", where='route=~"$route"', only=(0.99,))
        with Prometheus(prometheus.url, whole, route) as server:
            (series,) = server.over_time(query.expression, start=time.time(), end=time.time(), step_s=1)
        theirs, ours = float(np.quantile(load.waited[route], 0.99)), float(series.values[-1])
        apart = abs(bisect_left(SECONDS, theirs) - bisect_left(SECONDS, ours))
        calls = len(load.waited[route])
        show(f"p99 of {route}, {calls} calls", f"clients {theirs:.3f} s, dashboard {ours:.3f} s: {apart} buckets apart")


def judge(prometheus: Prometheus, since: float) -> None:
    """Check all queries of dashboards and rules."""
    queries = [query.expression for board in BOARDS for panel in board.panels for query in panel.queries]
    panels = sum(len(list(board.panels)) for board in BOARDS)
    missing = unanswered(BOARDS, prometheus, since)
    show(f"queries of {panels} panels that have data", f"{len(queries) - len(missing)} of {len(queries)}")
    for query in missing:
        print(f"  no data: {query}")
    unknown = sorted(names_in(*queries) - names_known(prometheus))
    show("metrics in queries that were never scraped", json.dumps(unknown))
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    unwell = unwell_rules(prometheus)
    show("rules that can be evaluated", f"{len(rules) - len(unwell)} of {len(rules)} {unwell or ''}")
    firing = {alert["labels"]["alertname"]: alert["state"] for alert in prometheus.get("alerts")["alerts"]}
    show("alerts at the end", json.dumps(firing))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0, help="how long there is load")
    parser.add_argument("--out", type=Path, default=Path("plots"), help="the folder for the pictures")
    options = parser.parse_args()
    mpl.use("agg")
    options.out.mkdir(parents=True, exist_ok=True)
    receiver = Receiver()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = changed_config(
            folder, lambda application: application["args"].update(cache={"max_bytes": CACHE_BYTES})
        )
        receiver.up()
        stack.callback(receiver.down)
        arguments = ("--serve-config", str(config), "--allow-private-webhooks")
        service = stack.enter_context(serving(folder, *arguments))
        prometheus = stack.enter_context(scraping(service, folder, every_s=SCRAPE_S, rate_over=RATE_OVER))
        since, load = time.time(), Load(service, receiver)
        with load.running():
            fail(service, load, receiver, options.minutes)
        time.sleep(3 * SCRAPE_S)  # until the last calls are scraped
        show("answers by status", json.dumps(load.answers))
        compare_p99(prometheus, load, since)
        judge(prometheus, since)
        for board in BOARDS:
            draw(board, prometheus, options.out / f"{board.uid}.png", start=since, end=time.time())
