"""HAProxy beside Serve's own proxy, both running: `python -m benchmarks.ingress`.

Both are called in turns within one run, so that whatever else the machine does falls on both. The calls are made by wrk
(apt-get install wrk), because a client in Python would be slower than what it measures. Prints a line for each figure:
the plain proxy's, HAProxy's, how many times better HAProxy's is, and that ratio's least and greatest of single rounds.
"""

from __future__ import annotations

import io
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks.service import show
from tests.service_process import RunningService, changed_config, serving

SIDE = 2048  # pixels of noise, 12 MB as a PNG; what /visualize answers holds it at least once
ROUNDS = 7
ROUND_S = 4
CLIENTS = 16
POST = "wrk.method = 'POST'\n"
MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One round of calls at one service."""

    p50_ms: float
    p99_ms: float
    calls_per_s: float


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
    # Without reactions, nothing is done but what is asked for.
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
        sent = client.post("/images", content=file.getvalue(), headers={"Content-Type": "image/png"}).raise_for_status()
    return str(sent.json()["image_id"])


def measure(url: str, clients: int) -> Measured:
    """Have this many clients call for some seconds, each again as soon as it is answered."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(POST)
        script.flush()
        said = subprocess.run(
            ["wrk", "-t1", f"-c{clients}", f"-d{ROUND_S}s", "--timeout", "30s", "--latency", "-s", script.name, url],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    if re.search(r"Non-2xx|Socket errors", said):
        raise RuntimeError(said)

    def percentile(share: int) -> float:
        (figure, unit) = re.findall(rf"^\s+{share}%\s+([\d.]+)(us|ms|s)$", said, re.MULTILINE)[0]
        return float(figure) * MILLISECONDS[unit]

    (calls_per_s,) = re.findall(r"^Requests/sec:\s+([\d.]+)$", said, re.MULTILINE)
    return Measured(p50_ms=percentile(50), p99_ms=percentile(99), calls_per_s=float(calls_per_s))


def compare(clients: int, rounds: list[list[Measured]]) -> None:
    """Print what both did, the plain proxy first in every round."""
    who = f"{clients} clients" if clients > 1 else "1 client"
    times = [("p50", "p50_ms"), ("p99", "p99_ms")]
    for name, attribute in times:
        figures = [[getattr(measured, attribute) for measured in both] for both in rounds]
        line(f"  {who}, {name}, ms", figures, [plain / ours for plain, ours in figures])
    if clients > 1:
        figures = [[measured.calls_per_s for measured in both] for both in rounds]
        line(f"  {who}, calls a second", figures, [ours / plain for plain, ours in figures])


def line(what: str, figures: list[list[float]], ratios: list[float]) -> None:
    plain, haproxy = (statistics.median(column) for column in zip(*figures, strict=True))
    ratio = statistics.median(ratios)
    show(what, f"{plain:.4g} / {haproxy:.4g}, {ratio:.1f} x ({min(ratios):.1f}-{max(ratios):.1f})")


if __name__ == "__main__":
    main()
