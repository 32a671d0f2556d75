"""CPU cost of serving without the engines: a part of `benchmarks stage-costs`.

A real service runs with engines that do almost no work, so that its CPU time is that of proxy, ingress, calls
between replicas, database and cache. The engines' remaining share is measured in this process and subtracted.
"""

from __future__ import annotations

import io
import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import yaml
from diffusers import UNet2DConditionModel
from PIL import Image

from benchmarks.capacity.engine_costs import (
    Engines,
    crops_cost,
    decode_cost,
    describe_costs,
    encode_cost,
    segment_cost,
    start_cost,
    step_cost,
)
from benchmarks.cpu_seconds import Spent, closed_loop, spending
from benchmarks.cpu_speed import Pace
from pipeline.settings import PROJECT_ROOT, Profile, ServiceSettings
from planning.costs import Overhead, Overheads
from testing.service_process import RunningService, changed_config, serving
from training.scenes.render import draw_scene

CLIENTS = 8
SIDE = 64
FEW_STEPS, MANY_STEPS = 2, 42
GENERATIONS, UPLOADS, CACHED_CALLS = 60, 100, 600
KNOWN = 8  # images of the cached calls: in the end all are in every ingress replica's memory
STAGES = 2  # of `/segment`: segmentation, and description of the regions
IDLE_S = 5.0
LONELY = 8  # generations of one client, for the wait between steps
SCENES = 9_200_000  # seeds of held-out images
AGAIN_S = 0.05  # before a retry after a rejection


@dataclass
class Caller:
    """Calls a service as its users do, and retries after a rejection."""

    service: RunningService
    seeds: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._client = self.service.client(limits=httpx.Limits(max_connections=64, max_keepalive_connections=64))

    def call(self, path: str, **options: Any) -> httpx.Response:
        """Post, with retries until it is accepted."""
        while True:
            answer = self._client.post(path, **options)
            if answer.status_code not in (429, 503):
                return answer.raise_for_status()
            time.sleep(AGAIN_S)

    def generate(self, _number: int = 0, **parameters: Any) -> str:
        """Generate an image of an uncached prompt; returns its id."""
        seed = next(self.seeds)
        made = self.call("/generate", json={"prompt": f"{seed} red apples", "seed": seed, **parameters})
        return str(made.json()["image_id"])

    def upload(self, number: int, side: int) -> str:
        """Upload a drawn scene; returns the image's id."""
        file = io.BytesIO()
        Image.fromarray(np.asarray(draw_scene(SCENES + number, side, split="test").pixels)).save(file, "PNG")
        sent = self.call("/v1/images/upload", content=file.getvalue(), headers={"Content-Type": "image/png"})
        return str(sent.json()["image_id"])

    def ask(self, image_id: str, path: str = "/segment") -> None:
        """Request an analysis of an image."""
        self.call(path, params={"image_id": image_id})


def idle_engines(profile: Profile, folder: Path) -> Profile:
    """A profile of the same kind with as little computation as possible."""
    mini = PROJECT_ROOT / "models" / "mini" / "diffusion"
    shutil.copytree(mini, folder, dirs_exist_ok=True)
    unet = UNet2DConditionModel.load_config(mini / "unet")
    UNet2DConditionModel(
        in_channels=unet["in_channels"],
        out_channels=unet["out_channels"],
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        block_out_channels=(32,),
        layers_per_block=1,
        cross_attention_dim=unet["cross_attention_dim"],
    ).save_pretrained(folder / "unet")
    everything = profile.sam2.everything.model_copy(
        update={"image_size": 64, "points_per_side": 2, "min_predicted_iou": 0.0, "min_stability": 0.0}
    )
    diffusion = profile.diffusion
    defaults = diffusion.defaults.model_copy(update={"width": SIDE, "height": SIDE, "steps": FEW_STEPS})
    model = diffusion.model.model_copy(update={"source": str(folder)})
    diffusion = diffusion.model_copy(update={"model": model, "defaults": defaults})
    sam2 = profile.sam2.model_copy(update={"everything": everything})
    return profile.model_copy(update={"name": "idle", "diffusion": diffusion, "sam2": sam2})


@contextmanager
def quiet_service(folder: Path, profile: Path | None = None) -> Iterator[RunningService]:
    """A service without reactions and with one replica of each engine, whatever its load."""

    def change(application: dict[str, Any]) -> None:
        application["args"]["reactions"] = {"enabled": False}
        for entry in application["deployments"]:
            if entry.pop("autoscaling_config", None):
                entry["num_replicas"] = 1

    folder.mkdir(exist_ok=True)
    words = ["--serve-config", str(changed_config(folder, change))]
    with serving(folder, *words, *(["--profile", str(profile)] if profile else [])) as service:
        yield service


def measure_overheads(folder: Path, pace: Pace) -> Overheads:
    """All overheads, normalized to the reference pace."""
    idle = idle_engines(ServiceSettings().load_profile(), folder)
    engines = Engines(idle, "cpu", pace)
    with idle_service(idle, folder / "idle") as caller:
        gap_s = _gap_s(caller, engines)
    eager = idle.diffusion.model_copy(update={"progress_every_s": 0.0})  # every step, so that they can be counted
    with idle_service(idle.model_copy(update={"diffusion": eager}), folder / "eager") as caller:
        return overheads_of(count_spending(caller, pace), engines, gap_s)


@contextmanager
def idle_service(profile: Profile, folder: Path) -> Iterator[Caller]:
    """A caller of a warmed-up service with this profile."""
    folder.mkdir()
    path = folder / "profile.yaml"
    path.write_text(yaml.safe_dump(profile.model_dump(mode="json")))
    with quiet_service(folder / "service", path) as service:
        caller = Caller(service)
        for steps in (FEW_STEPS, MANY_STEPS):
            caller.ask(caller.generate(steps=steps))
        yield caller


@dataclass(kw_only=True)
class Counted:
    """CPU time of an idle service, and for so many calls of each kind."""

    nothing: Spent
    few_steps: Spent
    many_steps: Spent
    uploads: Spent
    fresh: Spent
    cached: Spent

    @property
    def idle_cores(self) -> float:
        """CPU cores that an idle service uses."""
        return self.nothing.at_pace() / self.nothing.wall_s

    def of_one(self, spent: Spent, times: int, engines_s: float = 0.0) -> Overhead:
        """Overhead of one call, without the engines' part and the idle load."""
        share = spent.wall_s / self.nothing.wall_s
        ingress_s = (spent.at_pace("Ingress") - share * self.nothing.at_pace("Ingress")) / times
        all_s = (spent.at_pace() - share * self.nothing.at_pace()) / times - engines_s
        return Overhead(ingress_s=max(0.0, ingress_s), elsewhere_s=max(0.0, all_s - ingress_s))


def count_spending(caller: Caller, pace: Pace) -> Counted:
    """Measure all kinds of calls."""

    def spent_while(work: Callable[[], object]) -> Spent:
        with pace.watched() as slowness, spending(caller.service) as spent:
            work()
        spent.slowness = slowness.factor
        return spent

    def spent_for(work: Callable[[int], object], times: int) -> Spent:
        return spent_while(lambda: closed_loop(work, range(times), CLIENTS))

    uploaded: dict[int, str] = {}
    return Counted(
        nothing=spent_while(lambda: time.sleep(IDLE_S)),
        few_steps=spent_for(lambda i: caller.generate(i, steps=FEW_STEPS), GENERATIONS),
        many_steps=spent_for(lambda i: caller.generate(i, steps=MANY_STEPS), GENERATIONS),
        uploads=spent_for(lambda i: uploaded.__setitem__(i, caller.upload(i, SIDE)), UPLOADS),
        fresh=spent_for(lambda i: caller.ask(uploaded[i]), UPLOADS),
        cached=spent_for(lambda i: caller.ask(uploaded[i % KNOWN]), CACHED_CALLS),
    )


def overheads_of(counted: Counted, engines: Engines, gap_s: float) -> Overheads:
    """Serving overheads: differences of calls that differ in one respect, without the engines' part."""
    own, picture = describe_costs(engines)
    image = start_cost(engines) + decode_cost(engines) + encode_cost(engines) + own + picture
    few = counted.of_one(counted.few_steps, GENERATIONS, image.cpu_s)
    many = counted.of_one(counted.many_steps, GENERATIONS, image.cpu_s)
    step = less(many, few, 1 / (MANY_STEPS - FEW_STEPS))
    batched_s = step_cost(engines, 2 * CLIENTS).cpu_s / CLIENTS
    call = counted.of_one(counted.cached, CACHED_CALLS)
    stages = segment_cost(engines) + own + (picture + crops_cost(engines)).times(engines.regions)
    return Overheads(
        cached_call=call,
        upload=counted.of_one(counted.uploads, UPLOADS),
        generation=less(few, step, 1.0, FEW_STEPS),
        step=Overhead(ingress_s=step.ingress_s, elsewhere_s=max(0.0, step.elsewhere_s - batched_s)),
        stage=less(counted.of_one(counted.fresh, UPLOADS, stages.cpu_s), call, 1 / STAGES),
        step_gap_s=gap_s,
        idle_cores=counted.idle_cores,
    )


def less(one: Overhead, other: Overhead, factor: float, times: float = 1.0) -> Overhead:
    """The difference of one overhead and a multiple of another, scaled by a factor."""
    return Overhead(
        ingress_s=max(0.0, factor * (one.ingress_s - times * other.ingress_s)),
        elsewhere_s=max(0.0, factor * (one.elsewhere_s - times * other.elsewhere_s)),
    )


def _gap_s(caller: Caller, engines: Engines) -> float:
    """Seconds between two steps of a replica, from the latencies of a single client."""

    def seconds(steps: int) -> float:
        started = time.perf_counter()
        caller.generate(steps=steps)
        return time.perf_counter() - started

    with engines.pace.watched() as slowness:
        pairs = [(seconds(FEW_STEPS), seconds(MANY_STEPS)) for _ in range(LONELY)]
    each_s = median(more - fewer for fewer, more in pairs) / (MANY_STEPS - FEW_STEPS) / slowness.factor
    return max(0.0, each_s - step_cost(engines, 2).wall_s)
