from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest

from graphs.http.routes import legacy
from graphs.http.routes.legacy import VisualizationWriter
from graphs.http.schemas import common as schemas
from pipeline.records import Descriptions, Drawings
from testing.fakes import segmentation_of

pytestmark = pytest.mark.anyio


def found_of(name: bytes):
    mask = np.eye(8, dtype=bool)
    regions = Descriptions(
        vectors=np.zeros((2, 1), np.float32),
        labels=(("apple",), ("plate",)),
        confidences=np.ones((2, 1), np.float32),
        unknown=np.zeros(2, np.float32),
    )
    return segmentation_of([mask, ~mask]), regions, Drawings(overlay=name, spotlights=(b"1", b"2"))


@pytest.fixture
def written(monkeypatch) -> list:
    calls = []
    write = legacy.write_regions
    monkeypatch.setattr(legacy, "write_regions", lambda *found: calls.append(found) or write(*found))
    return calls


async def test_an_answer_is_written_once_for_all_who_ask(written):
    ours, found = VisualizationWriter(), found_of(b"overlay")
    at_once = await asyncio.gather(*(ours.write(found, request_id="r1", image_id="i") for _ in range(3)))
    first = json.loads(at_once[0])
    second = json.loads(await ours.write(found, request_id="r2", image_id="i"))
    assert len(written) == len(set(at_once)) == 1
    assert second == first | {"request_id": "r2"}
    assert schemas.Visualization.model_validate(first).master_overlay == "b3ZlcmxheQ=="
    assert [each["top_class"] for each in first["individual_spotlights"]] == ["apple", "plate"]


async def test_other_results_have_answers_of_their_own(written):
    ours, (segmentation, regions, drawings) = VisualizationWriter(), found_of(b"overlay")
    await ours.write((segmentation, regions, drawings), request_id="r", image_id="i")
    again = (segmentation, regions, replace(drawings, overlay=b"other"))
    assert b"b3RoZXI=" in await ours.write(again, request_id="r", image_id="i")
    assert len(written) == 2


async def test_what_is_kept_is_bounded(written):
    ours, found = VisualizationWriter(max_bytes=10), found_of(b"overlay")
    for _ in range(2):
        await ours.write(found, request_id="r", image_id="i")
    assert len(written) == 2
