"""Ids of requested regions."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from pipeline.errors import RegionNotFound
from pipeline.records import FIRST_SELECTED_REGION, PointsAndBox, RegionSelector
from pipeline.store import EventLog, new_id
from pipeline.store.regions import RegionStore

POINT = RegionSelector(prompt=PointsAndBox(points=((1.5, 2.0, True), (3.0, 4.0, False))))
BOX = RegionSelector(prompt=PointsAndBox(box=(0.0, 1.0, 2.5, 3.0)))
TEXTS = [RegionSelector(text="röd", match=match) for match in range(3)]


@pytest.fixture
def store(engine: Engine) -> RegionStore:
    return RegionStore(EventLog(engine))


def test_the_same_selector_has_the_same_id_and_is_read_back(store: RegionStore):
    image_id = new_id()
    ids = store.add(image_id, [POINT, *TEXTS])
    assert ids == list(range(FIRST_SELECTED_REGION, FIRST_SELECTED_REGION + 4))
    assert store.add(image_id, [TEXTS[1], BOX, POINT]) == [ids[2], FIRST_SELECTED_REGION + 4, ids[0]]
    assert [store.get(image_id, region_id) for region_id in (*ids, ids[-1] + 1)] == [POINT, *TEXTS, BOX]


def test_images_number_their_regions_separately(store: RegionStore):
    one, other = new_id(), new_id()
    assert store.add(one, [POINT]) == store.add(other, [BOX]) == [FIRST_SELECTED_REGION]
    assert (store.get(one, FIRST_SELECTED_REGION), store.get(other, FIRST_SELECTED_REGION)) == (POINT, BOX)


def test_an_unknown_region_is_not_found(store: RegionStore):
    image_id = new_id()
    store.add(image_id, [POINT])
    for image, region_id in ((image_id, FIRST_SELECTED_REGION + 1), (new_id(), FIRST_SELECTED_REGION)):
        with pytest.raises(RegionNotFound):
            store.get(image, region_id)


def test_processes_that_ask_at_once_agree_on_the_ids(store: RegionStore):
    image_id, start = new_id(), threading.Barrier(4)

    def add(number: int) -> list[int]:
        start.wait()
        return store.add(image_id, [TEXTS[number % 2], POINT])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(add, range(4)))
    assert found[0] == found[2]
    assert found[1] == found[3]
    assert {ids[1] for ids in found} == {found[0][1]}
    assert len({region_id for ids in found for region_id in ids}) == 3
