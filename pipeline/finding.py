"""Which regions of an image are what a text names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.records import Vectors


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The regions that a text names, best first."""

    regions: list[int]
    scores: list[float]  # 0 to 1


def rank(regions: Vectors, text: Vectors, min_score: float) -> Found:
    """Rank regions, (n, d), by a text's vector, (d,); those below the least score are left out."""
    scores = regions @ text
    order = [int(i) for i in np.argsort(-scores, kind="stable") if scores[i] >= min_score]
    return Found(regions=order, scores=[float(scores[i]) for i in order])
