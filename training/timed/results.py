"""Results of a training stage, as a file for the supervisor and for the model's card."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from training.timed.recipe import Model

FOLDER = "results"
WINDOW = 50  # steps at most over which first and last losses are averaged


class StageResult(BaseModel):
    """A stage from its first to its last step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Model
    stage: str
    steps: int
    batch: int
    """Images in a step, the last one where their number changed."""
    learning_rate: float
    seed: int
    seconds: float
    first_loss: float
    last_loss: float
    """Means over the first and the last few steps."""

    @property
    def words(self) -> str:
        """The result in a line."""
        return (
            f"{self.stage} done: {self.steps} steps of {self.batch} in {self.seconds:.0f} s, "
            f"loss {self.first_loss:.4f} to {self.last_loss:.4f}"
        )


def average_ends(losses: Sequence[float]) -> tuple[float, float]:
    """Return the means of the first and of the last losses, each over a third of the steps, up to a limit.

    Raises:
        ValueError: there are none.
    """
    if not losses:
        raise ValueError("a stage without a step has no losses")
    window = min(WINDOW, max(1, len(losses) // 3))
    return sum(losses[:window]) / window, sum(losses[-window:]) / window


def write_result(work: Path, result: StageResult) -> None:
    """Write a result atomically."""
    folder = work / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{result.stage}.partial"
    partial.write_text(result.model_dump_json(indent=2) + "\n")
    os.replace(partial, folder / f"{result.stage}.json")


def read_results(work: Path) -> list[StageResult]:
    """Read the results of all stages that have ended, in chronological order."""
    files = sorted((work / FOLDER).glob("*.json"), key=lambda file: file.stat().st_mtime)
    return [StageResult.model_validate_json(file.read_text()) for file in files]
