"""What the engines' pieces of work cost, each on its own in this process: a part of `benchmarks.stage_costs`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Any, Literal

import torch

from benchmarks.diffusion import COLOURS, alone, request_for
from benchmarks.everything import last
from benchmarks.pace import Pace
from benchmarks.visualize import draw_regions
from pipeline.engines.clip import ClipEngine
from pipeline.engines.diffusion.engine import DiffusionEngine
from pipeline.engines.sam2.engine import Sam2Engine
from pipeline.imaging import codecs as images
from pipeline.imaging import drawing
from pipeline.imaging.masks import masked_crops
from pipeline.records import Pixels, Segmentation
from pipeline.settings import Profile
from planning.costs import Cost

ROUNDS = 9
PICTURES = 6
MANY_STEPS = 100  # of images that are never finished

ModelName = Literal["diffusion", "clip", "sam2"]


@dataclass
class Engines:
    """A profile's engines, and pictures to work on: their own, or drawn ones where the weights are random."""

    profile: Profile
    device: str
    pace: Pace
    untrained: bool = False

    def __post_init__(self) -> None:
        torch.set_num_threads(self.profile.threads.diffusion)  # with others, what is compiled is compiled again
        self.diffusion = DiffusionEngine(self.profile.diffusion, self.device)
        if self.profile.diffusion.compiled:
            self.diffusion.warm_up(self.profile.diffusion.batch_rows)
        self.clip = ClipEngine(self.profile.clip, self.device)
        self.sam2 = Sam2Engine(self.profile.sam2, self.device)
        settings = self.profile.diffusion
        self.requests = [request_for(settings, f"a {COLOURS[i]} apple", i) for i in range(PICTURES)]
        self.pictures: list[Pixels]
        self.segmentations: list[Segmentation]
        if self.untrained:
            drawn = [draw_regions(seed) for seed in range(PICTURES)]
            self.pictures, self.segmentations = [each for each, _ in drawn], [each for _, each in drawn]
        else:
            self.pictures = [alone(self.diffusion, request) for request in self.requests]
            self.segmentations = [last(self.sam2, each, self.profile.sam2.everything) for each in self.pictures]

    @property
    def regions(self) -> float:
        """Of a picture, on average."""
        return max(0.1, mean(map(len, self.segmentations)))

    def cost(self, work: Callable[[], Any], rounds: int = ROUNDS, per: int = 1, model: ModelName | None = None) -> Cost:
        """Time a piece of work that was done once before, with as many threads as the model's replicas have.

        Of all rounds the median, as if cores hadn't been slow.
        """
        threads = torch.get_num_threads() if model is None else getattr(self.profile.threads, model)

        def with_threads() -> None:
            torch.set_num_threads(threads)
            work()

        with_threads()
        wall_s, cpu_s = zip(*(self._timed(with_threads) for _ in range(rounds)), strict=True)
        return Cost(wall_s=median(wall_s) / per, cpu_s=median(cpu_s) / per)

    def _timed(self, work: Callable[[], Any]) -> tuple[float, float]:
        slowness = self.pace.slowness() if self.device == "cpu" else 1.0
        self._finish()
        started, cpu = time.perf_counter(), time.process_time()
        work()
        self._finish()
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        return wall_s / slowness, cpu_s / slowness

    def _finish(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


def step_cost(engines: Engines, rows: int, rounds: int = ROUNDS) -> Cost:
    """One step of a batch that is full: every image takes two rows, or the one there is."""
    settings = engines.profile.diffusion
    request = replace(request_for(settings, "a red apple", 0), steps=MANY_STEPS)
    if rows < 2:
        request = replace(request, guidance=1.0)
    batch = [engines.diffusion.start(replace(request, seed=i), previews=False) for i in range(max(1, rows // 2))]
    return engines.cost(lambda: engines.diffusion.advance(batch, rows), rounds, model="diffusion")


def start_cost(engines: Engines) -> Cost:
    """A new image with a prompt that nobody asked for before."""
    numbers = iter(range(10**6))
    return engines.cost(
        lambda: engines.diffusion.start(replace(engines.requests[0], prompt=f"{next(numbers)} apples"), previews=False),
        model="diffusion",
    )


def decode_cost(engines: Engines) -> Cost:
    """The picture of an image that is done."""
    image = engines.diffusion.start(engines.requests[0], previews=False)
    return engines.cost(lambda: engines.diffusion.finish(image), model="diffusion")


def describe_costs(engines: Engines, regions: int = 8) -> tuple[Cost, Cost]:
    """A call of CLIP by itself, and each picture in it, from calls with one picture and with several."""
    labelling, pictures = engines.profile.clip.labelling, engines.pictures * regions
    one = engines.cost(lambda: engines.clip.describe(pictures[:1], labelling), model="clip")
    more = engines.cost(lambda: engines.clip.describe(pictures[: 1 + regions], labelling), model="clip")
    wall_s = max(0.0, more.wall_s - one.wall_s) / regions
    cpu_s = max(0.0, more.cpu_s - one.cpu_s) / regions
    own = Cost(wall_s=max(0.0, one.wall_s - wall_s), cpu_s=max(0.0, one.cpu_s - cpu_s))
    return own, Cost(wall_s=wall_s, cpu_s=cpu_s)


def segment_cost(engines: Engines, rounds: int = ROUNDS) -> Cost:
    """Everything in each picture, seen for the first time."""

    def segment() -> None:
        engines.sam2.clear_cache()
        for picture in engines.pictures:
            last(engines.sam2, picture, engines.profile.sam2.everything)

    return engines.cost(segment, rounds, per=len(engines.pictures), model="sam2")


def crops_cost(engines: Engines) -> Cost:
    """Each region cut out for CLIP."""

    def cut() -> None:
        for picture, segmentation in zip(engines.pictures, engines.segmentations, strict=True):
            list(masked_crops(picture, segmentation, engines.clip.fill))

    return engines.cost(cut, per=max(1, sum(map(len, engines.segmentations))))


def render_cost(engines: Engines) -> Cost:
    """Overlay and spotlights of each picture."""

    def render() -> None:
        for picture, segmentation in zip(engines.pictures, engines.segmentations, strict=True):
            drawing.render(picture, segmentation, engines.profile.drawing)

    return engines.cost(render, per=len(engines.pictures))


def encode_cost(engines: Engines) -> Cost:
    """Each picture as PNG."""
    return engines.cost(lambda: [images.encode_png(each) for each in engines.pictures], per=len(engines.pictures))
