"""The writer of visualizations: one response body per result, kept within a limit."""

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


def results_of(name: bytes):
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
    monkeypatch.setattr(legacy, "write_regions", lambda *results: calls.append(results) or write(*results))
    return calls


async def test_a_result_is_written_once_for_all_requests(written):
    writer, results = VisualizationWriter(), results_of(b"overlay")
    concurrent = await asyncio.gather(*(writer.write(results, request_id="r1", image_id="i") for _ in range(3)))
    first = json.loads(concurrent[0])
    second = json.loads(await writer.write(results, request_id="r2", image_id="i"))
    assert len(written) == len(set(concurrent)) == 1
    assert second == first | {"request_id": "r2"}
    assert schemas.Visualization.model_validate(first).master_overlay == "b3ZlcmxheQ=="
    assert [each["top_class"] for each in first["individual_spotlights"]] == ["apple", "plate"]


async def test_another_result_is_written_again(written):
    writer, (segmentation, regions, drawings) = VisualizationWriter(), results_of(b"overlay")
    await writer.write((segmentation, regions, drawings), request_id="r", image_id="i")
    again = (segmentation, regions, replace(drawings, overlay=b"other"))
    assert b"b3RoZXI=" in await writer.write(again, request_id="r", image_id="i")
    assert len(written) == 2


async def test_results_over_the_limit_are_not_kept(written):
    writer, results = VisualizationWriter(max_bytes=10), results_of(b"overlay")
    for _ in range(2):
        await writer.write(results, request_id="r", image_id="i")
    assert len(written) == 2
