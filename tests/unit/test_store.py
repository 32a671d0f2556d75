from __future__ import annotations

import os
import re
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from pipeline.errors import ImageNotFound
from pipeline.records import GenerationRequest, ImageRecord, Scheduler
from pipeline.store import FolderStore, Store, new_image_id

STORES = {"folder": FolderStore}


@pytest.fixture(params=STORES.values(), ids=STORES)
def open_store(request, tmp_path):
    """Opens the same store again and again."""
    return lambda: request.param(tmp_path)


@pytest.fixture
def store(open_store) -> Store:
    return open_store()


def a_record(owner: str = "public") -> ImageRecord:
    return ImageRecord(
        image_id=new_image_id(),
        digest="d" * 64,
        owner=owner,
        width=64,
        height=96,
        request=GenerationRequest(
            prompt="röd \N{RED APPLE}",
            negative_prompt='"\\',
            width=64,
            height=96,
            steps=3,
            guidance=7.5,
            seed=2**32 - 1,
            scheduler=Scheduler.EULER_A,
        ),
        model="weights",
        created_at=datetime(2026, 1, 18, 13, 22, 29, 553_001, tzinfo=UTC),
    )


def added(store: Store, *sessions: str, owner: str = "public", png: bytes = b"png") -> ImageRecord:
    record = a_record(owner)
    store.add(record, png, sessions)
    return record


def test_a_store_opened_again_has_everything(open_store):
    record = added(open_store(), "s", png=b"pixels")
    again = open_store()
    assert again.record(record.image_id) == record
    assert again.png(record.image_id) == b"pixels"
    assert again.last_image_id("public", "s") == record.image_id


def test_the_last_image_of_a_session_is_the_one_added_last(store):
    added(store, "s")
    last = added(store, "s")
    assert store.last_image_id("public", "s") == last.image_id


def test_sessions_and_owners_have_last_images_of_their_own(store):
    both = added(store, "a", "b")
    newer = added(store, "b")
    theirs = added(store, "a", owner="somebody")
    assert store.last_image_id("public", "a") == both.image_id
    assert store.last_image_id("public", "b") == newer.image_id
    assert store.last_image_id("somebody", "a") == theirs.image_id
    assert store.last_image_id("somebody", "b") is None


@pytest.mark.parametrize("session", ["../../../escaped", "a/b", "", "x" * 1000, "smörgås", ".", "nul\0byte"])
def test_a_session_may_have_any_name(store, session, tmp_path):
    record = added(store, session)
    assert store.last_image_id("public", session) == record.image_id
    assert not list(tmp_path.parent.glob("escaped*"))


def test_an_image_without_sessions_is_kept(store):
    record = added(store)
    assert store.record(record.image_id) == record


@pytest.mark.parametrize("ask", [lambda store, i: store.record(i), lambda store, i: store.png(i)])
def test_an_unknown_id_is_not_found_and_named(store, ask):
    added(store)
    unknown = new_image_id()
    with pytest.raises(ImageNotFound, match=unknown):
        ask(store, unknown)


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_an_image_whose_writing_broke_off_is_whole_or_not_there(tmp_path, monkeypatch, writes):
    store = FolderStore(tmp_path)
    before, rename, left = added(store, "s"), os.replace, iter(range(writes))

    def break_off(source: Path, target: Path) -> None:
        if next(left, None) is None:
            raise OSError("the disk is full")
        rename(source, target)

    monkeypatch.setattr("os.replace", break_off)
    record = replace(a_record(), digest="e" * 64)
    with pytest.raises(OSError, match="full"):
        store.add(record, b"new", ["s"])

    again = FolderStore(tmp_path)
    assert again.last_image_id("public", "s") == before.image_id
    if writes == 2:  # pixels and record
        assert (again.record(record.image_id), again.png(record.image_id)) == (record, b"new")
    else:
        with pytest.raises(ImageNotFound):
            again.record(record.image_id)


def test_a_reader_beside_a_writer_never_sees_half_a_file(open_store):
    first = added(open_store(), "s", png=b"0" * 5000)
    ids = {first.image_id}

    def write() -> None:
        for i in range(100):
            record = a_record()
            ids.add(record.image_id)
            open_store().add(record, b"%d" % (i % 10) * 5000, ["s"])

    writer = Thread(target=write)
    writer.start()
    reader = open_store()
    while writer.is_alive():
        found = reader.last_image_id("public", "s")
        assert found in ids
        assert reader.record(found).image_id == found
        assert re.fullmatch(rb"(\d)\1{4999}", reader.png(found))
    writer.join()


def test_ids_are_valid_sort_by_time_and_differ_within_a_millisecond(monkeypatch):
    now_ms = 1_768_742_549_553
    ids = []
    for later_ms in (0, 1, 999, 86_400_000, 10**11):
        clock = SimpleNamespace(time_ns=lambda at=now_ms + later_ms: at * 1_000_000 + 999_999)
        monkeypatch.setattr("pipeline.store.interface.time", clock)
        ids.append(new_image_id())
        assert uuid.UUID(ids[-1]).int >> 80 == now_ms + later_ms
        assert len({new_image_id() for _ in range(100)}) == 100
    assert ids == sorted(ids)
    for made in map(uuid.UUID, ids):
        assert (made.version, made.variant) == (7, uuid.RFC_4122)
