"""The part that draws: as many processes as there are cores fill the shared scenes.

It never loads torch: its processes are forked, which is fast and shares the libraries' memory.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized
from random import Random

import cv2

from training.scenes.captions import write_caption
from training.scenes.casting import cast_scene
from training.scenes.dataset import CAPTIONS, COLOUR_NAMES, KIND_NAMES, NONE
from training.scenes.layout import ALONE
from training.scenes.render import Scene, build
from training.timed.clock import Interval
from training.timed.part import PartContext, open_part
from training.timed.recipe import Mix, TimedRecipe
from training.timed.shared_scenes import SharedScenes, blank_things

LARGE = (0.6, 0.9)  # longer side of most single objects, as a share of the image's: the denoiser learns these sooner
USUAL_SHARE = 0.35  # of the single objects, with the usual sizes
NICENESS = 10  # training has priority


def main() -> None:
    """Draw until there are enough scenes, or until the time is over and there are enough to start training."""
    context = open_part("drawing")
    context.scenes.mark_loaded("drawing")
    methods = multiprocessing.get_context("fork")
    next_chunk = methods.Value("l", 0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = [methods.Process(target=draw_chunks, args=(context, next_chunk)) for _ in range(cores)]
    context.log(f"{cores} processes draw {context.recipe.num_scenes} scenes")
    for worker in workers:
        worker.start()
    report = Interval(context.recipe.scale.report_every_s)
    for worker in workers:
        while worker.is_alive():
            worker.join(timeout=1.0)
            if report.has_passed():
                context.log(f"{context.scenes.num_drawn} scenes")
    context.log(f"done: {context.scenes.num_drawn} scenes")
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a process that draws has failed")


def draw_chunks(context: PartContext, next_chunk: Synchronized[int]) -> None:
    """Draw one chunk after another; every process takes the next one."""
    os.nice(NICENESS)
    cv2.setNumThreads(1)
    recipe, shared = context.recipe, context.scenes
    pattern = list_pattern(recipe.mix)
    while context.now() < context.time_of(recipe.timetable.drawing) or shared.num_drawn < recipe.scale.start_scenes:
        with next_chunk.get_lock():
            chunk = next_chunk.value
            next_chunk.value += 1
        if chunk >= len(shared.drawn):
            return
        if shared.drawn[chunk]:  # by an earlier run of this part
            continue
        draw_chunk(recipe, shared, chunk, pattern[chunk % len(pattern)])


def draw_chunk(recipe: TimedRecipe, shared: SharedScenes, chunk: int, num_things: int) -> None:
    """Draw the scenes of a chunk, and set its flag."""
    rows = shared.rows(chunk)
    for i in range(rows.start, rows.stop):
        seed = recipe.first_scene + i
        scene = draw_mixed_scene(seed, recipe.scale.side, num_things, recipe.mix)
        store(shared, i, scene, seed)
    shared.num_things[chunk] = num_things
    shared.drawn[chunk] = 1


def store(shared: SharedScenes, index: int, scene: Scene, seed: int) -> None:
    """Write a scene and its captions to the shared memory."""
    blank_things(shared, index)
    shared.pixels[index] = scene.pixels
    for number, thing in enumerate(scene.things):
        shared.owners[index][thing.mask] = number + 1
        shared.kinds[index, number] = KIND_NAMES.index(thing.kind)
        shared.colours[index, number] = COLOUR_NAMES.index(thing.colour)
    behind = scene.background.colour
    shared.backgrounds[index] = COLOUR_NAMES.index(behind) if behind in COLOUR_NAMES else NONE
    rng = Random(f"captions train {seed}")
    for k in range(CAPTIONS):
        shared.captions[index, k] = write_caption(rng, scene.facts, scene.relation, scene.background).encode()


def draw_mixed_scene(seed: int, side: int, num_things: int, mix: Mix) -> Scene:
    """Draw a scene of the training split with kinds sampled by their weights.

    Args:
        seed: of the scene.
        side: pixels.
        num_things: 1 to 3.
        mix: with the weights.
    """
    rng = Random(f"train {seed}")
    heaviest = max([1.0, *mix.kind_weights.values()])
    while True:  # the cost of casting is negligible relative to drawing
        pairs, relation = cast_scene(rng, num_things, KIND_NAMES, "train", "any")
        weight = max(mix.kind_weights.get(kind, 1.0) for kind, _ in pairs)
        if rng.random() * heaviest < weight:
            break
    length = ALONE if rng.random() < USUAL_SHARE else LARGE
    return build(pairs, relation, rng, side, length=length)


def list_pattern(mix: Mix, length: int = 20) -> list[int]:
    """Numbers of things for so many chunks in a row, spread so that every stretch has its share of each."""
    return list(_spread({1: mix.singles, 2: mix.pairs, 3: mix.triples}, length))


def _spread(shares: dict[int, float], length: int) -> Iterator[int]:
    credit = dict.fromkeys(shares, 0.0)
    for _ in range(length):
        for number, share in shares.items():
            credit[number] += share
        chosen = max(credit, key=lambda number: credit[number])
        credit[chosen] -= 1
        yield chosen


if __name__ == "__main__":
    main()
