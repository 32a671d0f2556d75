"""The running service, measured from outside: `python -m benchmarks service`.

Prints one line for each figure: start, memory, latencies of cached calls, liveness under load, a killed cache,
overload. Absolute figures of one machine, for orientation; for comparisons use the interleaved benchmarks.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import psutil

from testing.service_process import RunningService, changed_config, quick_scaling, serving, wait_until

CALLS = 300
CROWD = 100
IMAGES, ROUNDS = 8, 5


def main() -> None:
    """Start a service and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        # Without reactions: a call for a new result must not find it computed.
        config = changed_config(
            Path(folder), lambda application: application["args"].update(reactions={"enabled": False})
        )
        with serving(Path(folder), "--serve-config", str(config)) as service:
            show("start to ready", f"{time.monotonic() - started:.1f} s")
            show("resident memory of all processes", f"{resident_gb(service):.2f} GB")
            cached_calls(service)
            together_and_in_turn(service)
            liveness_under_load(service)
            killed_cache(service)
            overload(service)
            stopping = time.monotonic()
        show("stop", f"{time.monotonic() - stopping:.1f} s")
        scaling(Path(folder))


def cached_calls(service: RunningService) -> None:
    """Time calls with cached results."""
    with service.client(headers={"X-Session-ID": "bench"}) as client:
        client.post("/generate", json={"prompt": "red apple in white plate", "seed": 3}).raise_for_status()
        for path in ("/segment", "/visualize", "/analyze"):
            client.post(path).raise_for_status()
            show(f"cached {path}", percentiles([timed(partial(client.post, path)) for _ in range(CALLS)]))
        probe = {"prompt": "metal"}
        show(
            "/probe, text seen before",
            percentiles([timed(lambda: client.post("/probe", json=probe)) for _ in range(CALLS)]),
        )
        show("/healthz, idle", percentiles([timed(lambda: client.get("/healthz")) for _ in range(CALLS)]))


def together_and_in_turn(service: RunningService) -> None:
    """Generate the same number of images sequentially and concurrently, in turns."""

    def make(seed: int) -> None:
        with service.client(headers={"X-Session-ID": f"bench-{seed}"}) as client:
            client.post("/generate", json={"prompt": "pear", "seed": seed}).raise_for_status()

    in_turn, together = [], []
    with ThreadPoolExecutor(IMAGES) as pool:
        for first in range(0, 2 * ROUNDS * IMAGES, 2 * IMAGES):
            started = time.perf_counter()
            for seed in range(first, first + IMAGES):
                make(seed)
            between = time.perf_counter()
            list(pool.map(make, range(first + IMAGES, first + 2 * IMAGES)))
            in_turn.append(between - started)
            together.append(time.perf_counter() - between)
    ratios = [slow / quick for slow, quick in zip(in_turn, together, strict=True)]
    show(
        f"{IMAGES} /generate at once and one after the other",
        f"{statistics.median(together):.2f} s and {statistics.median(in_turn):.2f} s: "
        f"{statistics.median(ratios):.2f} x ({min(ratios):.2f}-{max(ratios):.2f})",
    )


def liveness_under_load(service: RunningService) -> None:
    """Time `/healthz` while one client generates images and another segments new ones."""
    stopped = threading.Event()

    def load(session: str, segment: bool) -> None:
        seed = 10_000 if segment else 20_000
        with service.client(headers={"X-Session-ID": session}) as client:
            while not stopped.is_set():
                seed += 1
                steps = 1 if segment else 15
                client.post("/generate", json={"prompt": "pear", "seed": seed, "steps": steps})
                if segment:
                    client.post("/segment")

    with ThreadPoolExecutor(2) as pool, service.client() as client:
        for session, segment in (("maker", False), ("cutter", True)):
            pool.submit(load, session, segment)
        try:
            times = [timed(lambda: client.get("/healthz")) for _ in range(CALLS)]
        finally:
            stopped.set()
    show("/healthz while one generates and one segments", percentiles(times))


def killed_cache(service: RunningService) -> None:
    """Time the first response that needs the cache after it was killed, and the usual one."""

    def segment_new(seed: int) -> float:
        with service.client(headers={"X-Session-ID": "bench-cache"}) as client:
            client.post("/generate", json={"prompt": "pear", "seed": seed, "steps": 2}).raise_for_status()
            if seed == 0:
                service.processes("ray::SegmentationCache")[0].kill()
            return timed(lambda: client.post("/segment"))

    usual = statistics.median(segment_new(seed) for seed in range(1, 6))
    first = segment_new(0)
    show("new /segment", f"{usual:.0f} ms; right after kill -9 of the cache {first:.0f} ms")
    wait_until(lambda: bool(service.processes("ray::SegmentationCache")))


def overload(service: RunningService) -> None:
    """Send a crowd of `/generate` at once."""
    before_gb = resident_gb(service)
    barrier = threading.Barrier(CROWD)

    def call(i: int) -> tuple[int, float, str | None]:
        with service.client(headers={"X-Session-ID": f"crowd-{i}"}) as client:
            client.get("/-/healthz")  # connected before the start
            barrier.wait()
            started = time.monotonic()
            answer = client.post("/generate", json={"prompt": "pear", "seed": i})
            return answer.status_code, (time.monotonic() - started) * 1000, answer.headers.get("retry-after")

    with ThreadPoolExecutor(CROWD) as pool:
        answers = list(pool.map(call, range(CROWD)))
    accepted = [ms for status, ms, _ in answers if status == httpx.codes.OK]
    refused = [ms for status, ms, retry in answers if status in (429, 503) and retry]
    show(f"{CROWD} /generate at once", f"{len(accepted)} accepted, {len(refused)} refused with Retry-After")
    show("  accepted finish within", f"{max(accepted) / 1000:.1f} s")
    show("  refused within", percentiles(refused))
    show("  memory before and after", f"{before_gb:.2f} GB, {resident_gb(service):.2f} GB")


def scaling(folder: Path) -> None:
    """Time the diffusion deployment from one replica to two under load, and back after the load ends."""
    config = str(quick_scaling(folder, "Diffusion"))
    with (
        serving(folder, "--serve-config", config) as service,
        service.client() as client,
        ThreadPoolExecutor(8) as pool,
    ):

        def replicas() -> int:
            return len(service.processes("ray::ServeReplica:pipeline:Diffusion"))

        started = time.monotonic()
        calls = [pool.submit(client.post, "/generate", json={"prompt": "pear", "steps": 100}) for _ in range(8)]
        wait_until(lambda: replicas() == 2)
        up_s = time.monotonic() - started
        for call in calls:
            call.result().raise_for_status()
        idle = time.monotonic()
        wait_until(lambda: replicas() == 1)
        show(
            "Diffusion from 1 replica to 2 and back",
            f"{up_s:.1f} s after load began, {time.monotonic() - idle:.1f} s after it ended",
        )


def resident_gb(service: RunningService) -> float:
    """Sum of the resident set sizes: shared pages are counted once per process."""
    family = [service.process, *service.process.children(recursive=True)]
    total = 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e9


def timed(call: Callable[[], httpx.Response]) -> float:
    """Milliseconds of one call, which must succeed."""
    started = time.perf_counter()
    call().raise_for_status()
    return (time.perf_counter() - started) * 1000


def percentiles(milliseconds: list[float]) -> str:
    """Format p50, p90, p99 and the maximum."""
    ordered = sorted(milliseconds)
    p50, p90, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.9, 0.99))
    return f"p50 {p50:.1f} ms, p90 {p90:.1f} ms, p99 {p99:.1f} ms, max {ordered[-1]:.1f} ms ({len(ordered)} calls)"


def show(what: str, figure: str) -> None:
    """Print one figure."""
    print(f"{what:<48} {figure}", flush=True)
