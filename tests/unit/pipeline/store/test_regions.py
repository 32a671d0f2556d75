"""Ids of requested regions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, insert

from pipeline.errors import ImageNotFound, RegionNotFound
from pipeline.records import FIRST_SELECTED_REGION, PointsAndBox, RegionSelector
from pipeline.store import EventLog, new_id
from pipeline.store.regions import RegionStore
from pipeline.store.tables import images

POINT = RegionSelector(prompt=PointsAndBox(points=((1.5, 2.0, True), (3.0, 4.0, False))))
BOX = RegionSelector(prompt=PointsAndBox(box=(0.0, 1.0, 2.5, 3.0)))
TEXTS = [RegionSelector(text="röd", match=match) for match in range(3)]


@pytest.fixture
def store(engine: Engine) -> RegionStore:
    return RegionStore(EventLog(engine))


@pytest.fixture
def an_image(engine: Engine) -> Callable[[], str]:
    """Return a function that stores the row of an image, and returns its id."""

    def add() -> str:
        row = {"image_id": new_id(), "owner": "public", "digest": "d", "width": 64, "height": 64, "size_bytes": 1}
        row |= {"model": "", "created_at": datetime.now(UTC)}
        with engine.begin() as connection:
            connection.execute(insert(images).values(row))
        return row["image_id"]

    return add


def test_the_same_selector_has_the_same_id_and_is_read_back(store: RegionStore, an_image: Callable[[], str]):
    image_id = an_image()
    ids = store.add(image_id, [POINT, *TEXTS])
    assert ids == list(range(FIRST_SELECTED_REGION, FIRST_SELECTED_REGION + 4))
    assert store.add(image_id, [TEXTS[1], BOX, POINT]) == [ids[2], FIRST_SELECTED_REGION + 4, ids[0]]
    assert [store.get(image_id, region_id) for region_id in (*ids, ids[-1] + 1)] == [POINT, *TEXTS, BOX]


def test_images_number_their_regions_separately(store: RegionStore, an_image: Callable[[], str]):
    one, other = an_image(), an_image()
    assert store.add(one, [POINT]) == store.add(other, [BOX]) == [FIRST_SELECTED_REGION]
    assert (store.get(one, FIRST_SELECTED_REGION), store.get(other, FIRST_SELECTED_REGION)) == (POINT, BOX)


def test_an_unknown_region_is_not_found(store: RegionStore, an_image: Callable[[], str]):
    image_id = an_image()
    store.add(image_id, [POINT])
    with pytest.raises(ImageNotFound):
        store.add(new_id(), [POINT])
    for image, region_id in ((image_id, FIRST_SELECTED_REGION + 1), (new_id(), FIRST_SELECTED_REGION)):
        with pytest.raises(RegionNotFound):
            store.get(image, region_id)


def test_processes_that_ask_at_once_agree_on_the_ids(store: RegionStore, an_image: Callable[[], str]):
    image_id, start = an_image(), threading.Barrier(4)

    def add(number: int) -> list[int]:
        start.wait()
        return store.add(image_id, [TEXTS[number % 2], POINT])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(add, range(4)))
    assert found[0] == found[2]
    assert found[1] == found[3]
    assert {ids[1] for ids in found} == {found[0][1]}
    assert len({region_id for ids in found for region_id in ids}) == 3
