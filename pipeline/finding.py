"""Which regions of a picture a text means, and whether it means any: cosines against one bound of the profile.

Works on vectors that the description stages left behind; pure numpy, it may load no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.records import Vectors
from pipeline.settings import Finding

Vector = npt.NDArray[np.float32]  # (d,), unit norm


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The regions that a text means, best first; none where it names nothing in the picture.

    A score says how well something matches by itself, from 0 to 1; 0.5 is the profile's bound. The best region may
    score less, if the whole picture says that the text is true of it.
    """

    region_ids: tuple[int, ...]
    scores: tuple[float, ...]  # of those regions, descending
    presence: float  # the score of the text being true of anything here, found or not

    def __len__(self) -> int:
        return len(self.region_ids)


def rank(regions: Vectors, picture: Vector, text: Vector, finding: Finding) -> Found:
    """Find the regions that a text means.

    The text is taken to be there if the whole picture or one region reaches the bound. The answer is then the best
    region, and each other one that reaches the bound too. The picture has a say because a region that holds two things,
    one before the other, is less like either's name than the picture is. Regions of one score keep their order, the
    most confident first.

    Args:
        regions: (n, d), of the masked crops, in the segmentation's order.
        picture: (d,), of the whole picture.
        text: (d,), of the text in the profile's template.
        finding: the bound and what scores are made with.
    """
    cosines = regions @ text  # (n,)
    order = np.argsort(-cosines, kind="stable")
    strongest = evidence(regions, picture, text)
    num_matching = int((cosines >= finding.min_cosine).sum())
    is_there = strongest >= finding.min_cosine
    found = order[: max(1, num_matching)] if is_there else order[:0]
    *scores, presence = score(np.append(cosines[found], strongest), finding).tolist()
    return Found(region_ids=tuple(found.tolist()), scores=tuple(scores), presence=presence)


def evidence(regions: Vectors, picture: Vector, text: Vector) -> float:
    """The cosine that speaks most for a text being true of something: a region's or the whole picture's."""
    return float((regions @ text).max(initial=float(picture @ text)))


def score(cosines: npt.NDArray[np.floating], finding: Finding) -> npt.NDArray[np.floating]:
    """Map cosines to 0 … 1, the bound to 0.5: the sigmoid of `logit_scale` × their distance from it."""
    logits = finding.logit_scale * (cosines - finding.min_cosine)
    scores: npt.NDArray[np.floating] = (1 + np.tanh(logits / 2)) / 2  # the sigmoid, without overflow
    return scores
