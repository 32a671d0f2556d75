"""Losses of a running stage."""

from __future__ import annotations

import math

import torch

from training.timed.clock import Interval, Schedule
from training.timed.part import PartContext
from training.timed.recipe import Model
from training.timed.results import StageResult, average_ends


class StageLog:
    """Collects a stage's losses, reports them every few seconds, and sums them up at its end.

    It synchronizes with the device only when it reports.

    Args:
        context: of the part.
        model: the stage belongs to.
        stage: its name.
        rate: the highest learning rate.
        schedule: whose steps are counted.
    """

    def __init__(self, context: PartContext, model: Model, stage: str, rate: float, schedule: Schedule) -> None:
        self._context = context
        self._model: Model = model
        self._stage = stage
        self._rate = rate
        self._schedule = schedule
        self._interval = Interval(context.recipe.scale.report_every_s, context.now)
        self._losses: list[float] = []
        self._pending: list[torch.Tensor] = []
        self._images = self._batch = 0
        self._since_s = 0.0

    def add(self, loss: torch.Tensor, batch: int) -> None:
        """Count a step with so many images."""
        self._schedule.steps += 1
        self._pending.append(loss.detach())
        self._images += batch
        self._batch = batch

    def report(self) -> bool:
        """Log the stage's progress, if it is time; return whether it was."""
        if not self._pending or not self._interval.has_passed():
            return False
        recent = self._read()
        seconds = self._schedule.seconds
        rate = self._images / max(1e-6, seconds - self._since_s)
        self._images, self._since_s = 0, seconds
        self._context.log(
            f"{self._stage} {self._schedule.progress:.0%}, step {self._schedule.steps}, {rate:.0f} images/s, "
            f"loss {sum(recent) / len(recent):.4f}"
        )
        return True

    def finish(self) -> StageResult:
        """Write the stage's result and return it."""
        self._read()
        first, last = average_ends(self._losses)
        result = StageResult(
            model=self._model,
            stage=self._stage,
            steps=self._schedule.steps,
            batch=self._batch,
            learning_rate=self._rate,
            seed=self._context.recipe.seed,
            seconds=self._schedule.seconds,
            first_loss=first,
            last_loss=last,
        )
        self._context.write_result(result)
        return result

    def _read(self) -> list[float]:
        recent: list[float] = torch.stack(self._pending).tolist() if self._pending else []
        self._pending.clear()
        if not all(math.isfinite(loss) for loss in recent):
            self._context.log(f"{self._stage}: some losses aren't finite; their steps are left out")
        self._losses += recent
        return recent
