"""Scores of texts against pictures by CLIP vectors: label shares, matches, contrasts, and search for regions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.records import Vectors
from pipeline.settings import ProbeCalibration, TextSearchSettings

Scores = npt.NDArray[np.float32]


def label_shares(pictures: Vectors, labels: Vectors, logit_scale: float) -> Scores:
    """Return the softmax of `logit_scale` × cosine over labels (arXiv:2103.00020, section 3.1).

    Args:
        pictures: (n, d).
        labels: (k, d).

    Returns:
        (n, k), each row of sum 1.
    """
    logits = logit_scale * (pictures @ labels.T)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Scores = powers / powers.sum(axis=1, keepdims=True)
    return shares


def ensembled(prompts: Vectors) -> Vectors:
    """Average the vectors of each label's prompts, (k, t, d), to one of unit norm, (k, d) (section 3.1.4)."""
    means = prompts.mean(axis=1)
    vectors: Vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
    return vectors


def matches(cosines: Scores, probing: ProbeCalibration) -> Scores:
    """Map cosines linearly from the profile's bounds to 0 … 1, clipped."""
    shares: Scores = ((cosines - probing.floor) / (probing.ceiling - probing.floor)).clip(0, 1)
    return shares


def contrasts(pictures: Vectors, concepts: Vectors, neutral: Vectors, logit_scale: float) -> tuple[Scores, Scores]:
    """Return each concept's softmax share of a picture, and the share of none of them.

    Args:
        pictures: (n, d).
        concepts: (k, d).
        neutral: (m, d), texts that fit any picture.

    Returns:
        (n, k) and (n,), which sum to 1 for each picture.
    """
    shares = label_shares(pictures, np.vstack([concepts, neutral]), logit_scale)
    return shares[:, : len(concepts)], shares[:, len(concepts) :].sum(axis=1)


Vector = npt.NDArray[np.float32]  # (d,), unit norm


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The regions that a text means, best first; none where it names nothing in the picture.

    A score is from 0 to 1 and independent of other regions; 0.5 is the profile's bound. The best region may score less,
    if the whole picture reaches the bound.
    """

    region_ids: tuple[int, ...]
    scores: tuple[float, ...]  # of those regions, descending
    presence: float  # the score of the best match, a region or the whole picture

    def __len__(self) -> int:
        return len(self.region_ids)


def rank(regions: Vectors, picture: Vector, text: Vector, finding: TextSearchSettings) -> Found:
    """Find the regions that a text means.

    The text counts as present if the whole picture or one region reaches the bound. The result is then the best region,
    and every other one that reaches the bound too. The picture counts because a region that holds two things, one in
    front of the other, matches either's name less well than the picture does. Regions of equal score keep their order,
    the most confident first.

    Args:
        regions: (n, d), of the masked crops, in the segmentation's order.
        picture: (d,), of the whole picture.
        text: (d,), of the text in the profile's template.
        finding: the bound and the scale of the scores.
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
    """Return the highest cosine between a text and any region or the whole picture."""
    return float((regions @ text).max(initial=float(picture @ text)))


def score(cosines: npt.NDArray[np.floating], finding: TextSearchSettings) -> npt.NDArray[np.floating]:
    """Map cosines to 0 … 1, the bound to 0.5: the sigmoid of `logit_scale` × their distance from it."""
    logits = finding.logit_scale * (cosines - finding.min_cosine)
    scores: npt.NDArray[np.floating] = (1 + np.tanh(logits / 2)) / 2  # the sigmoid, without overflow
    return scores
