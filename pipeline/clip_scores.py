"""What cosines between pictures and texts mean: shares among labels, matches between bounds, contrasts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.records import Vectors
from pipeline.settings import Probing

Scores = npt.NDArray[np.float32]


def label_shares(pictures: Vectors, labels: Vectors, logit_scale: float) -> Scores:
    """The softmax of `logit_scale` × cosine over labels (arXiv:2103.00020, section 3.1).

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
    """One vector for each label from those of its prompts, (k, t, d): their mean, of unit norm (section 3.1.4)."""
    means = prompts.mean(axis=1)
    vectors: Vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
    return vectors


def matches(cosines: Scores, probing: Probing) -> Scores:
    """Map cosines linearly from the profile's bounds to 0 … 1, clipped."""
    shares: Scores = ((cosines - probing.floor) / (probing.ceiling - probing.floor)).clip(0, 1)
    return shares


def contrasts(pictures: Vectors, concepts: Vectors, neutral: Vectors, logit_scale: float) -> tuple[Scores, Scores]:
    """How the concepts share a picture among them, and what of it falls to none of them.

    Args:
        pictures: (n, d).
        concepts: (k, d).
        neutral: (m, d), texts that fit any picture.

    Returns:
        (n, k) and (n,), together of sum 1 for each picture.
    """
    shares = label_shares(pictures, np.vstack([concepts, neutral]), logit_scale)
    return shares[:, : len(concepts)], shares[:, len(concepts) :].sum(axis=1)
