"""The whole service on a GPU, with the real sizes and random weights: `python -m benchmarks gpu-service [--json PATH]`.

One replica of each engine shares the first GPU, with the fractions of `serve_config.yaml`, and clients call in a
closed loop. `--tiny` runs the same with small models on any device, to check that it works.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.capacity.serving_costs import Caller, quiet_service
from benchmarks.capacity.validation import done_within
from benchmarks.untrained import REAL, TINY, write_profile

CLIENTS = (1, 8, 24)
WARM_UP_S, WINDOW_S = 3.0, 15.0
SIDE = 512  # of uploaded images
KNOWN = 8  # images with cached results


def main(words: list[str] | None = None) -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--window", type=float, default=WINDOW_S, help="seconds of each measurement")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU here: only --tiny runs without one")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.tiny, arguments.window)
    Console(width=120).print(tabulate(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def measure(folder: Path, tiny: bool, window_s: float) -> dict[str, Any]:
    """Start the service, and measure each kind of call."""
    profile = write_profile(TINY if tiny else REAL, folder)
    started = time.monotonic()
    with quiet_service(folder / "service", profile) as service:
        ready_s = time.monotonic() - started
        with service.client() as client:
            models = client.get("/readyz").json()["models"]
        if reasons := [f"{name}: {model['reason']}" for name, model in models.items() if not model["ready"]]:
            raise RuntimeError("; ".join(reasons))
        caller, uploads = Caller(service), itertools.count()
        known = [caller.upload(next(uploads), SIDE) for _ in range(KNOWN)]
        for image_id in known:
            caller.ask(image_id, "/visualize")

        def generate(_: int) -> None:
            caller.generate()

        def analyse(_: int) -> None:
            caller.ask(caller.upload(next(uploads), SIDE))

        calls = [calling("/generate", generate, clients, window_s) for clients in CLIENTS]
        calls += [calling("upload, then /segment", analyse, clients, window_s) for clients in (1, 8)]
        cached = calling("cached /segment", lambda number: caller.ask(known[number % KNOWN]), 8, window_s)
        return {
            "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU",
            "ready_s": ready_s,
            "devices": {name: model["device"] for name, model in models.items()},
            "gpu_memory": gpu_memory(),
            "calls": [*calls, cached],
        }


def calling(name: str, work: Callable[[int], None], clients: int, window_s: float) -> dict[str, Any]:
    """Run so many clients in a closed loop; throughput in calls per second, and the median latency."""
    stopped, numbers = threading.Event(), itertools.count()
    spans: list[tuple[float, float]] = []

    def client() -> None:
        while not stopped.is_set():
            began = time.perf_counter()
            work(next(numbers))
            spans.append((began, time.perf_counter()))

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client) for _ in range(clients)]
        stopped.wait(WARM_UP_S)
        opened = time.perf_counter()
        stopped.wait(window_s)
        closed = time.perf_counter()
        stopped.set()
        for each in running:
            each.result()
    rate = done_within(spans, opened, closed) / (closed - opened)
    print(f"{name}, {clients} clients: {rate:.2f}/s", flush=True)
    took = [ended - began for began, ended in spans if ended > opened and began < closed]
    return {"calls": name, "clients": clients, "rate": rate, "median_ms": 1000 * median(took)}


def gpu_memory() -> str:
    """GPU memory in use, as reported by the driver."""
    if not torch.cuda.is_available():
        return ""
    command = ["nvidia-smi", "--query-gpu=memory.used,memory.total", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def tabulate(found: dict[str, Any]) -> Table:
    """The measurements as a table for a terminal."""
    title = f"{found['machine']}: ready after {found['ready_s']:.0f} s, {found['gpu_memory']}, {found['devices']}"
    table = Table("calls", "clients", "1/s", "median", title=title)
    for each in found["calls"]:
        table.add_row(each["calls"], str(each["clients"]), f"{each['rate']:.2f}", f"{each['median_ms']:.0f} ms")
    return table
