from __future__ import annotations

from dataclasses import fields
from random import Random

import numpy as np
import pytest

from pipeline.artifacts import decode, encode
from pipeline.records import Descriptions, Drawings
from tests.unit.shapes import rectangle, segmentation_of

SIZE = (20, 30)


def described(n: int, k: int = 2) -> Descriptions:
    return Descriptions(
        vectors=np.eye(n, 4, dtype=np.float32),
        labels=tuple((f"é{i}", "plate")[:k] for i in range(n)),
        confidences=np.full((n, k), 0.25, np.float32),
        unknown=np.full(n, 0.25, np.float32),
    )


ARTIFACTS = {
    "segmentation": segmentation_of(SIZE, rectangle(SIZE, 1, 1, 9, 9), rectangle(SIZE, 3, 5, 30, 20)),
    "segmentation without regions": segmentation_of(SIZE),
    "segmentation of one pixel": segmentation_of(SIZE, rectangle(SIZE, 0, 0, 1, 1)),
    "descriptions": described(3),
    "descriptions of nothing": described(0),
    "drawings": Drawings(overlay=b"overlay", spotlights=(b"one", b"", b"three")),
    "drawings without spotlights": Drawings(overlay=b"overlay", spotlights=()),
}

artifacts = pytest.mark.parametrize("artifact", ARTIFACTS.values(), ids=ARTIFACTS)


def arrays_of(artifact) -> dict[str, np.ndarray]:
    values = {field.name: getattr(artifact, field.name) for field in fields(artifact)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


@artifacts
def test_decoded_results_equal_the_encoded_ones(artifact):
    read = decode(encode(artifact))
    assert type(read) is type(artifact)
    for field in fields(artifact):
        written, found = getattr(artifact, field.name), getattr(read, field.name)
        if isinstance(written, np.ndarray):
            assert (found.dtype, found.shape) == (written.dtype, written.shape)
            assert np.array_equal(found, written)
        else:
            assert found == written


@artifacts
def test_equal_results_have_equal_bytes(artifact):
    assert encode(decode(encode(artifact))) == encode(artifact)


@artifacts
def test_decoded_arrays_are_read_only(artifact):
    for array in arrays_of(decode(encode(artifact))).values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@artifacts
def test_damaged_bytes_raise_only_value_errors(artifact):
    random, whole, num_refused = Random(0), encode(artifact), 0
    for _ in range(200):
        damaged = bytearray(whole[: random.randrange(len(whole))] if random.random() < 0.3 else whole)
        for _ in range(random.randrange(4)):
            damaged[random.randrange(len(damaged) or 1) : random.randrange(len(damaged) or 1)] = random.randbytes(1)
        for _ in range(random.randrange(1, 4) if damaged else 0):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        try:
            decode(bytes(damaged))
        except ValueError:
            num_refused += 1
    assert num_refused > 100


@pytest.mark.parametrize("length", [0, 1, 8, 60, -1])
def test_truncated_bytes_are_refused(length):
    with pytest.raises(ValueError, match="artifact"):
        decode(encode(ARTIFACTS["segmentation"])[:length])


def test_another_containers_bytes_are_refused():
    with pytest.raises(ValueError, match="not an artifact"):
        decode(b"\x89PNG\r\n\x1a\n" + bytes(100))


def test_an_unknown_type_is_named():
    with pytest.raises(ValueError, match="Drowings"):
        decode(encode(ARTIFACTS["drawings"]).replace(b"Drawings", b"Drowings"))
