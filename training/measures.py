"""A measured figure beside its goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


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
        """How many of the samples were right."""
        return cls(what=what, value=sum(right) / len(right), goal=goal, samples=len(right))

    @property
    def is_reached(self) -> bool:
        """Whether the goal is reached."""
        return self.value <= self.goal if self.smaller_is_better else self.value >= self.goal
