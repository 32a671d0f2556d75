"""Evaluation figures and their goals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of an evaluation."""

    what: str
    value: float
    goal: float
    samples: int
    unit: str = ""  # "" for a share
    smaller_is_better: bool = False

    @classmethod
    def share(cls, what: str, right: Sequence[bool], goal: float) -> Self:
        """The share of correct samples."""
        return cls(what=what, value=sum(right) / len(right), goal=goal, samples=len(right))

    @property
    def words(self) -> tuple[str, str, str, str, str]:
        """The metric's name, its value, its goal, the number of samples, and whether it misses the goal."""
        form = f"{{:.2f}} {self.unit}" if self.unit else "{:.1%}"
        value, goal = form.format(self.value), form.format(self.goal)
        return self.what, value, goal, str(self.samples), "" if self.is_reached else "short"

    @property
    def is_reached(self) -> bool:
        """Whether the goal is reached."""
        return self.value <= self.goal if self.smaller_is_better else self.value >= self.goal


def calibration_error(confidences: npt.NDArray[np.float32], right: Sequence[bool], bins: int = 15) -> float:
    """The expected calibration error (arXiv:1706.04599): the mean gap between confidence and accuracy.

    Args:
        confidences: (n,), of the predictions, 0 to 1.
        right: n, whether each prediction is correct.
        bins: of equal width.
    """
    which = np.minimum((confidences * bins).astype(int), bins - 1)
    gaps = np.bincount(which, confidences - np.asarray(right, np.float32), minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))


HEADS = ("measure", "figure", "goal", "samples", "")


def tabulate(figures: Sequence[Figure]) -> Table:
    """Table of figures and goals for a terminal."""
    table = Table(*HEADS)
    for figure in figures:
        table.add_row(*figure.words)
    return table


def tabulate_markdown(figures: Sequence[Figure]) -> str:
    """Table of figures and goals in Markdown."""
    rows = [HEADS, ("---",) * len(HEADS), *(figure.words for figure in figures)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
