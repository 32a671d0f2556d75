"""HAProxy against Serve's own proxy, both running: `python -m benchmarks ingress`.

Both are called alternately within one run, so that other load on the machine affects both. The load generator is wrk
(apt-get install wrk), because a client in Python would be slower than the proxies. Prints a line for each figure: the
plain proxy's, HAProxy's, the ratio by which HAProxy's is better, and the ratio's minimum and maximum over rounds.
"""

from __future__ import annotations

import io
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks.service.overview import show
from testing.service_process import RunningService, changed_config, serving

SIDE = 1600  # pixels of noise, 8 MB as a PNG, of which /visualize makes 20
ROUNDS = 7
ROUND_S = 4
CLIENTS = 16
POST = "wrk.method = 'POST'\n"
MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One round of calls at one service."""

    p50_ms: float
    p99_ms: float
    calls_per_s: float


FIGURES: list[tuple[str, Callable[[Measured], float], bool]] = [
    ("p50, ms", lambda measured: measured.p50_ms, False),
    ("p99, ms", lambda measured: measured.p99_ms, False),
    ("calls a second", lambda measured: measured.calls_per_s, True),
]


def main() -> None:
    """Start a service of each kind and measure both."""
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        services = start(stack, Path(folder))
        for path, image_id in (
            ("/segment", [generate(service) for service in services]),
            ("/visualize", [upload(service) for service in services]),
        ):
            calls = [f"{service.url}{path}?image_id={one}" for service, one in zip(services, image_id, strict=True)]
            sizes = [len(httpx.post(call, timeout=120).raise_for_status().content) for call in calls]
            show(f"cached {path}", f"{sizes[0] / 1e6:.2g} and {sizes[1] / 1e6:.2g} MB")
            for clients in (1, CLIENTS):
                compare(clients, [[measure(call, clients) for call in calls] for _ in range(ROUNDS + 1)][1:])


def start(stack: ExitStack, folder: Path) -> list[RunningService]:
    """Start one service behind each proxy, the plain one first."""
    # Without reactions, only the requested work is done.
    config = changed_config(folder, lambda application: application["args"].update(reactions={"enabled": False}))
    contexts = []
    for kind in ("plain", "haproxy"):
        (folder / kind).mkdir()
        contexts.append(serving(folder / kind, "--ingress", kind, "--serve-config", str(config)))
    with ThreadPoolExecutor(len(contexts)) as pool:
        return list(pool.map(stack.enter_context, contexts))


def generate(service: RunningService) -> str:
    with service.client() as client:
        made = client.post("/generate", json={"prompt": "red apple in white plate", "seed": 3}).raise_for_status()
    return str(made.json()["image_id"])


def upload(service: RunningService) -> str:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)).save(file, "PNG")
    with service.client() as client:
        sent = client.post(
            "/v1/images/upload", content=file.getvalue(), headers={"Content-Type": "image/png"}
        ).raise_for_status()
    return str(sent.json()["image_id"])


def measure(url: str, clients: int) -> Measured:
    """Run this many clients in a closed loop for some seconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(POST)
        script.flush()
        output = subprocess.run(
            ["wrk", "-t1", f"-c{clients}", f"-d{ROUND_S}s", "--timeout", "30s", "--latency", "-s", script.name, url],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    found = re.findall(r"^ +(?:50|99)% +([\d.]+)(us|ms|s|m) *$|^Requests/sec: +([\d.]+)$", output, re.MULTILINE)
    if len(found) != len(FIGURES) or re.search(r"Non-2xx|Socket errors", output):
        raise RuntimeError(output)
    p50_ms, p99_ms = (float(figure) * MILLISECONDS[unit] for figure, unit, _ in found[:2])
    return Measured(p50_ms=p50_ms, p99_ms=p99_ms, calls_per_s=float(found[2][2]))


def compare(clients: int, rounds: list[list[Measured]]) -> None:
    """Print the figures of both; in every round the plain proxy is first."""
    who = f"{clients} clients" if clients > 1 else "1 client"
    for name, figure, more_is_better in FIGURES:
        figures = [(figure(plain), figure(haproxy)) for plain, haproxy in rounds]
        ratios = [ours / other if more_is_better else other / ours for other, ours in figures]
        other, ours = (statistics.median(column) for column in zip(*figures, strict=True))
        ratio = ours / other if more_is_better else other / ours
        show(f"  {who}, {name}", f"{other:.4g} / {ours:.4g}, {ratio:.1f} x ({min(ratios):.1f}-{max(ratios):.1f})")
