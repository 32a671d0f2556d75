from __future__ import annotations

import numpy as np
import pytest

from pipeline.settings import ProbeCalibration
from pipeline.text_scoring import contrasts, ensembled, label_shares, matches

X, Y, Z = np.eye(3, dtype=np.float32)


def test_confidences_are_the_softmax_of_cosines():
    shares = label_shares(np.stack([X, Y]), np.stack([X, Z]), logit_scale=np.log(3))
    assert shares.sum(axis=1) == pytest.approx([1, 1])
    assert shares[0] == pytest.approx([0.75, 0.25])
    assert shares[1] == pytest.approx([0.5, 0.5])


def test_large_scales_do_not_overflow():
    assert label_shares(X[None], np.stack([X, -X]), logit_scale=1e4).tolist() == [[1.0, 0.0]]


def test_a_label_s_prompts_are_averaged_to_a_unit_vector():
    (vector,) = ensembled(np.stack([X, Y])[None])
    assert vector == pytest.approx((X + Y) / np.sqrt(2))


def test_matches_are_scaled_between_floor_and_ceiling():
    bounds = ProbeCalibration(floor=0.2, ceiling=0.4)
    assert matches(np.array([0.1, 0.2, 0.3, 0.9], np.float32), bounds) == pytest.approx([0, 0, 0.5, 1])


def test_vectors_closer_to_the_neutral_texts_match_no_concept():
    pictures = np.stack([X, Z])
    shares, none = contrasts(pictures, np.stack([X, Y]), Z[None], logit_scale=50)
    assert shares[0] == pytest.approx([1, 0], abs=1e-6)
    assert none == pytest.approx([0, 1], abs=1e-6)
    assert shares.sum(axis=1) + none == pytest.approx([1, 1])
