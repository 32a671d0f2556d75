"""Background analysis of new images, and its effect on interactive calls: `python -m benchmarks reactions`.

Prints a table: calls whose results the reactions have computed already, and `/segment` of a new image during background
segmentations, interleaved with the same call on an idle service.
"""

from __future__ import annotations

import io
import re
import statistics
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks.service.overview import percentiles, show, timed
from testing.service_process import RunningService, serving, wait_until

IMAGES = 20
ROUNDS = 8
CROWD = 10  # images in the background during an interactive call
SIDE = 128  # pixels
REST_S = 1.0  # after the last line in the log
EXPORT_S = 3.0  # until Ray's exporter shows new counts


@dataclass(frozen=True)
class SegmentCall:
    """One `/segment` of a new image."""

    image_id: str
    ms: float
    joined: bool  # its own reaction had started to segment it before the call


def main() -> None:
    """Start a service and measure it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder)) as service,
        service.client(headers={"X-Session-ID": "bench"}) as client,
    ):
        made_before_asked(service, client)
        asked_before_made(service, client)


def made_before_asked(service: RunningService, client: httpx.Client) -> None:
    """Time `/visualize` once for each of several images whose reactions have finished."""

    def visualize(seed: int) -> float:
        made = client.post("/generate", json={"prompt": "pear", "seed": seed, "steps": 2}).raise_for_status()
        image_id = made.json()["image_id"]
        rest(service, [image_id])
        return timed(lambda: client.post("/visualize", params={"image_id": image_id}))

    before = segmentations_run(service)
    show("/visualize of a new image after its reactions", percentiles([visualize(seed) for seed in range(IMAGES)]))
    show("  segmentations run for each image", f"{(segmentations_run(service) - before) / IMAGES:g}")


def asked_before_made(service: RunningService, client: httpx.Client) -> None:
    """Time `/segment` of a new image, alternating between an idle background and many reactions."""
    idle, busy, behind = [], [], []
    for i in range(ROUNDS):
        idle.append(segment_fresh(service, client, 2 * i))
        rest(service, [idle[-1].image_id])
        with ThreadPoolExecutor(CROWD) as pool:
            crowd = list(pool.map(lambda seed: upload(client, seed), range(1000 + CROWD * i, 1000 + CROWD * (i + 1))))
        busy.append(segment_fresh(service, client, 2 * i + 1))
        behind.append(sum(f"Image segmented of {image_id}" not in log(service) for image_id in crowd))
        rest(service, [*crowd, busy[-1].image_id])
    ratios = sorted(one.ms / other.ms for one, other in zip(busy, idle, strict=True))
    show("/segment of a new image, idle", summary(idle))
    show(f"/segment of a new image, with {CROWD} reactions in the background", summary(busy))
    show("  of them not yet segmented when it was", f"{min(behind)} to {max(behind)}")
    show("  ratio", f"p50 {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}")


def segment_fresh(service: RunningService, client: httpx.Client, seed: int) -> SegmentCall:
    """Upload an image and segment it at once."""
    image_id = upload(client, seed)
    mine = {"X-Request-ID": f"segment-{seed}"}
    ms = timed(lambda: client.post("/segment", params={"image_id": image_id}, headers=mine))
    segmented = re.search(rf"Image segmented of {image_id}.* for request (\S+)", log(service))
    return SegmentCall(image_id, ms, segmented is None or segmented[1] != mine["X-Request-ID"])


def upload(client: httpx.Client, seed: int) -> str:
    """Upload an image of coloured rectangles; returns its id."""
    chance = np.random.default_rng(seed)
    picture = Image.new("RGB", (SIDE, SIDE), tuple(chance.integers(256, size=3)))
    for x, y, width, height in chance.integers(16, SIDE // 2, size=(6, 4)):
        picture.paste(tuple(chance.integers(256, size=3)), (x, y, x + width, y + height))
    file = io.BytesIO()
    picture.save(file, "PNG")
    sent = client.post("/v1/images/upload", content=file.getvalue(), headers={"Content-Type": "image/png"})
    return str(sent.raise_for_status().json()["image_id"])


def rest(service: RunningService, image_ids: Sequence[str]) -> None:
    """Wait until the reactions to these images have finished, and a little longer."""
    wait_until(lambda: all(f"Regions rendered of {image_id}" in log(service) for image_id in image_ids))
    pause(REST_S)


def segmentations_run(service: RunningService) -> float:
    pause(EXPORT_S)
    return service.metric("ray_pipeline_engine_calls_total", model="Segmenter")


def log(service: RunningService) -> str:
    return (service.data_dir / "app.log").read_text()


def summary(calls: Sequence[SegmentCall]) -> str:
    """Format p50, minimum, maximum, and how many calls joined their image's reaction."""
    ordered = sorted(call.ms for call in calls)
    joined = sum(call.joined for call in calls)
    return (
        f"p50 {statistics.median(ordered):.0f} ms, {ordered[0]:.0f} to {ordered[-1]:.0f} ms "
        f"({len(ordered)} calls, {joined} joined the reaction)"
    )


pause: Callable[[float], object] = threading.Event().wait
