"""The context of every part: the recipe, the shared scenes, the clock, and the log."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

from training.timed.clock import Now, Schedule
from training.timed.recipe import Part, TimedRecipe
from training.timed.results import StageResult, write_result
from training.timed.shared_scenes import Layout, SharedScenes

POLL_S = 0.1


class MissingSupervisor(Exception):
    """The process that started the part has ended."""


class MissingScenes(Exception):
    """Drawing or encoding has ended without any scene."""


class PartContext:
    """A part's view of the training.

    Args:
        name: of the part.
        recipe: of the training.
        scenes: in shared memory.
        now: a clock in seconds that all parts share.
    """

    def __init__(self, name: Part, recipe: TimedRecipe, scenes: SharedScenes, now: Now = time.monotonic) -> None:
        self.name = name
        self.recipe = recipe
        self.scenes = scenes
        self.now = now
        self._parent = os.getppid()

    def log(self, message: str) -> None:
        """Print a line; the supervisor prefixes the time and the part's name."""
        print(message, flush=True)

    def wait_for_start(self) -> None:
        """Note that the libraries are loaded, and wait until the clock of the training starts."""
        self.scenes.mark_loaded(self.name)
        self.wait_until(lambda: self.scenes.started_at is not None)

    def wait_for_scenes(self) -> None:
        """Wait for as many scenes as training starts with, or for the end of the drawing.

        Raises:
            MissingScenes: there are none.
        """
        wanted = self.recipe.scale.start_scenes
        self.wait_until(lambda: self.scenes.num_drawn >= wanted or self.scenes.is_ended("drawing"))
        if not self.scenes.num_drawn:
            raise MissingScenes("no scenes were drawn")

    def wait_for_latents(self) -> float:
        """Wait for the autoencoder and for as many latents as training starts with; return the latents' scaling.

        Raises:
            MissingScenes: there are none, and no more will come.
        """
        wanted, scenes = self.recipe.scale.start_scenes, self.scenes
        self.wait_until(
            lambda: (scenes.scaling is not None and scenes.num_encoded >= wanted) or scenes.is_ended("autoencoder")
        )
        scaling = scenes.scaling
        if scaling is None or not scenes.num_encoded:
            raise MissingScenes("the autoencoder has ended without latents")
        return scaling

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds.

        Raises:
            MissingSupervisor: the supervising process has ended.
        """
        while not condition():
            if os.getppid() != self._parent:
                raise MissingSupervisor("the supervisor has ended")
            time.sleep(POLL_S)

    def time_of(self, share: float) -> float:
        """Return the clock's time at a share of the training's minutes; infinity before the training starts."""
        start = self.scenes.started_at
        return float("inf") if start is None else start + share * 60 * self.recipe.minutes

    def schedule(self, share: float) -> Schedule:
        """Start a stage that ends at a share of the training's minutes."""
        return Schedule(self.time_of(share), self.recipe.scale.min_steps, self.now)

    def write_result(self, result: StageResult) -> None:
        """Write a stage's result for the supervisor, and log it."""
        write_result(self.recipe.work, result)
        self.log(result.words)


def open_part(name: Part) -> PartContext:
    """Read the command line that the supervisor starts a part with."""
    parser = argparse.ArgumentParser(
        description=f"The part {name} of a training; `training.train --minutes` starts it."
    )
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--descriptor", type=int, required=True, help="of the inherited memory file")
    arguments = parser.parse_args()
    recipe = TimedRecipe.model_validate_json(arguments.recipe.read_text())
    layout = Layout(num=recipe.num_scenes, chunk=recipe.scale.chunk, side=recipe.scale.side)
    return PartContext(name, recipe, SharedScenes(layout, arguments.descriptor))
