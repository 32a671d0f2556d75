"""One training loop for all models: seeded, resumable, with a progress bar.

A step depends on the seed and the step's number only, so a run that was interrupted and resumed ends with the same
weights as an uninterrupted one. A recipe with `minutes` follows the wall clock instead: the number of steps and the
learning-rate schedule depend on the machine.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn

CHECKPOINT_EVERY_S = 120.0
SMOOTHING = 0.98  # smoothing of the displayed loss
GRADIENT_NORM = 1.0

Loss = Callable[[int, np.random.Generator], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train."""

    steps: int  # in total; the minimum if `minutes` is set
    learning_rate: float
    minutes: float | None = None  # wall-clock budget; None: `steps` alone apply
    warmup: int = 100  # steps
    final_rate: float = 0.02  # share of the learning rate at the end of its cosine
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    ema: float | None = None  # decay of the averaged weights; None: no averaging
    seed: int = 0
    slower: Mapping[str, float] = field(default_factory=dict)  # name prefixes: learning-rate factors


class Run:
    """A training run: weights, optimizer, averaged weights and the current step.

    Args:
        model: trained in place.
        recipe: how to train.
        checkpoint: a file to resume from and to write to; None for none.
        now: a clock in seconds.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, checkpoint: Path | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.model = model
        self.recipe = recipe
        self._now = now
        self.step = 0
        self.seconds = 0.0  # of training, over all of its parts
        self.losses: list[float] = []  # of the steps since it was made
        self._checkpoint = checkpoint
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        groups, self._shares = _group(model, recipe)
        self._optimizer = torch.optim.AdamW(
            groups, recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self._average = [p.detach().clone() for p in self._parameters] if recipe.ema else None
        if checkpoint is not None and checkpoint.exists():
            self._restore(torch.load(checkpoint, weights_only=True, map_location="cpu"))

    def train(self, loss_of: Loss, words: str) -> None:
        """Train to the end of the recipe.

        Args:
            loss_of: computes the loss of a step with the step's own random generator.
            words: label of the progress bar.
        """
        self.model.train()
        saved = started = self._now()
        earlier = self.seconds
        with _bar(words, self.recipe) as show:
            while not self.is_over:
                loss = self.advance(loss_of)
                self.seconds = earlier + self._now() - started
                self.losses.append(loss)
                show(self, loss)
                if self._now() - saved > CHECKPOINT_EVERY_S:
                    self.save()
                    saved = self._now()
        self.save()

    @property
    def progress(self) -> float:
        """How much of the recipe is done, from 0 to 1."""
        recipe = self.recipe
        by_steps = self.step / recipe.steps if recipe.steps else 1.0
        if recipe.minutes is None:
            return min(1.0, by_steps)
        by_time = self.seconds / (60 * recipe.minutes) if recipe.minutes > 0 else 1.0
        return min(1.0, by_steps, by_time)

    @property
    def is_over(self) -> bool:
        """Whether the recipe is done."""
        return self.progress >= 1

    def save(self) -> None:
        """Write the checkpoint atomically."""
        if self._checkpoint is None:
            return
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "average": self._average,
                "step": self.step,
                "seconds": self.seconds,
            },
            partial,
        )
        os.replace(partial, self._checkpoint)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Use the averaged weights in the model while the block runs."""
        if self._average is None:
            yield
            return
        own = [p.detach().clone() for p in self._parameters]
        try:
            _copy(self._average, self._parameters)
            yield
        finally:
            _copy(own, self._parameters)

    def result(self) -> Any:
        """A copy of the model with its averaged weights, for inference."""
        with self.averaged():
            return copy.deepcopy(self.model).eval().requires_grad_(False)

    def advance(self, loss_of: Loss) -> float:
        """Take one step; return its loss."""
        seeds = np.random.SeedSequence((self.recipe.seed, self.step))
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        for group, share in zip(self._optimizer.param_groups, self._shares, strict=True):
            group["lr"] = share * self._rate()
        loss = loss_of(self.step, np.random.default_rng(seeds))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, GRADIENT_NORM)
        self._optimizer.step()
        self.step += 1
        if self._average is not None and self.recipe.ema is not None:
            self._follow(self._average, self.recipe.ema)
        return loss.item()

    def _rate(self) -> float:
        recipe = self.recipe
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        warm = min(1.0, (self.step + 1) / recipe.warmup)
        return recipe.learning_rate * warm * (recipe.final_rate + (1 - recipe.final_rate) * cosine)

    @torch.no_grad()
    def _follow(self, average: list[torch.Tensor], ema: float) -> None:
        decay = min(ema, (1 + self.step) / (10 + self.step))
        for mean, parameter in zip(average, self._parameters, strict=True):
            mean.lerp_(parameter, 1 - decay)

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None and state["average"] is not None:
            _copy(state["average"], self._average)
        self.step, self.seconds = state["step"], state["seconds"]


def _group(model: nn.Module, recipe: Recipe) -> tuple[list[dict[str, Any]], list[float]]:
    """Parameter groups, matrices with weight decay before the rest, and each group's learning-rate factor."""
    groups: list[dict[str, Any]] = []
    shares = []
    for share in (1.0, *sorted(set(recipe.slower.values()))):
        members = [p for name, p in model.named_parameters() if p.requires_grad and _share(name, recipe) == share]
        groups.append({"params": [p for p in members if p.ndim > 1]})
        groups.append({"params": [p for p in members if p.ndim <= 1], "weight_decay": 0.0})
        shares += [share, share]
    return groups, shares


def _share(name: str, recipe: Recipe) -> float:
    return next((share for start, share in recipe.slower.items() if name.startswith(start)), 1.0)


@torch.no_grad()
def _copy(source: list[torch.Tensor], target: list[Any]) -> None:
    for to, value in zip(target, source, strict=True):
        to.copy_(value)


@contextmanager
def _bar(words: str, recipe: Recipe) -> Iterator[Callable[[Run, float], None]]:
    count = MofNCompleteColumn() if recipe.minutes is None else TaskProgressColumn()
    columns = (TextColumn("{task.description:<32}"), BarColumn(), count, TimeElapsedColumn(), TimeRemainingColumn())
    total = recipe.steps if recipe.minutes is None else 1.0
    smooth = math.nan
    with Progress(*columns) as progress:
        task = progress.add_task(words, total=total)

        def show(run: Run, loss: float) -> None:
            nonlocal smooth
            smooth = loss if math.isnan(smooth) else SMOOTHING * smooth + (1 - SMOOTHING) * loss
            done = run.step if recipe.minutes is None else run.progress
            progress.update(task, completed=done, description=f"{words}, loss {smooth:.4f}")

        yield show
