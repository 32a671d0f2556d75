"""COCO's run lengths, compared with pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from ai_pipeline_client.masks import decode_mask, run_lengths

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.booleans(), fill=st.booleans())


@given(masks)
def test_a_mask_is_what_pycocotools_encoded(mask):
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    decoded = decode_mask(encoded["counts"].decode(), mask.shape)
    assert decoded.dtype == np.bool_
    assert np.array_equal(decoded, mask)


def test_a_mask_of_a_large_picture():
    mask = np.zeros((2048, 1024), np.uint8, order="F")
    mask[100:2000, 7] = mask[50:60, 900:] = 1
    encoded = coco.encode(mask)
    assert np.array_equal(decode_mask(encoded["counts"].decode(), (2048, 1024)), mask)


@pytest.mark.parametrize("counts", ["", "2", "04", "00O", "o"])
def test_run_lengths_that_do_not_fit_are_refused(counts):
    with pytest.raises(ValueError, match="run lengths of a mask"):
        decode_mask(counts, (3, 1))


def test_run_lengths_alternate_and_need_no_numpy():
    mask = np.array([[0, 1], [1, 1], [1, 0]], np.uint8, order="F")
    assert run_lengths(coco.encode(mask)["counts"].decode()) == [1, 4, 1]
