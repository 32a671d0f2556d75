from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.event import listens_for

from pipeline.cache import CacheKey
from pipeline.errors import ImageNotFound, LeaseLost, RegionNotFound
from pipeline.events import ImageCreated
from pipeline.jobs import JobOrder, JobState, Lease
from pipeline.records import Annotations, GenerationRequest, ImageRecord, RegionSelector, Scheduler, Source
from pipeline.settings import RetentionSettings
from pipeline.store import Blobs, ImageFilter, PageQuery, Store, new_id, open_database
from pipeline.store.database import writing
from pipeline.store.tables import events
from pipeline.webhooks import DeliveryState
from testing.servers import S3
from tests.unit.pipeline.store.test_jobs import an_order

OpenStore = Callable[..., Store]


@pytest.fixture(params=["folder", "s3"])
def blobs_location(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path | str:
    if request.param == "folder":
        return tmp_path / "blobs"
    server: S3 = request.getfixturevalue("s3_server")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server.new_bucket()


@pytest.fixture
def open_store(database_url: str, blobs_location: Path | str) -> Iterator[OpenStore]:
    """Return a function that opens the same store, as a restarted process would."""
    engines = []

    def open_(retention: RetentionSettings | None = None) -> Store:
        engines.append(open_database(database_url))
        return Store(engines[-1], Blobs(blobs_location), retention or RetentionSettings())

    yield open_
    for engine in engines:
        engine.dispose()


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()


def a_record(owner: str = "public", **changes: object) -> ImageRecord:
    record = ImageRecord(
        image_id=new_id(),
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
        created_at=datetime.now(UTC),
    )
    return replace(record, **changes)


def add(
    store: Store, record: ImageRecord, *sessions: str, png: bytes = b"png", lease: Lease | None = None
) -> ImageRecord:
    created = ImageCreated(
        request_id="r", image_id=record.image_id, owner=record.owner, digest=record.digest, seconds=1.5
    )
    store.add(record, png, sessions, created, lease)
    return record


def a_key(record: ImageRecord, stage: str = "segment") -> CacheKey:
    return CacheKey(owner=record.owner, digest=record.digest, stage=stage, model="-", parameters="p")


def test_a_reopened_store_has_everything(open_store: OpenStore):
    record = add(open_store(), a_record(), "s", png=b"pixels")

    again = open_store()

    assert again.record(record.image_id, "public") == record
    assert again.png(record.image_id) == b"pixels"
    assert again.last_image_id("public", "s") == record.image_id


def test_an_upload_has_no_request(store: Store):
    record = add(store, a_record(request=None, model=""))

    assert store.record(record.image_id, "public") == record


def test_an_image_and_its_event_are_written_atomically(store: Store):
    record = add(store, a_record())
    with pytest.raises(Exception, match=r"(?i)unique"):
        add(store, record)

    with store.log.engine.connect() as connection:
        logged = connection.execute(select(events)).all()
    assert [(row.type, row.image_id, row.payload["seconds"]) for row in logged] == [
        ("image.created", record.image_id, 1.5)
    ]


def test_each_session_of_an_owner_has_its_own_last_image(store: Store):
    both = add(store, a_record(), "a", "b")
    newer = add(store, a_record(), "b")
    theirs = add(store, a_record(owner="other"), "a")

    assert store.last_image_id("public", "a") == both.image_id
    assert store.last_image_id("public", "b") == newer.image_id
    assert store.last_image_id("other", "a") == theirs.image_id
    assert store.last_image_id("other", "b") is None


def test_unknown_and_foreign_images_are_not_found(store: Store):
    theirs = add(store, a_record(owner="other"))

    for image_id in (theirs.image_id, new_id()):
        with pytest.raises(ImageNotFound, match=image_id):
            store.record(image_id, "public")
        with pytest.raises(ImageNotFound, match=image_id):
            store.delete(image_id, "public")
    with pytest.raises(ImageNotFound):
        store.png(new_id())


def test_a_job_s_result_and_its_image_are_written_atomically(store: Store):
    order = JobOrder(job_id=new_id(), kind="generate", owner="public", request_id="r", request={})
    done = store.jobs.submit(order, holder="w", lease_s=60)
    record = add(store, a_record(), lease=done.lease)
    assert store.jobs.get(done.job.job_id, "public").result == {"image_id": record.image_id}
    assert [e.type for e in store.log.read(after=0, limit=9)][-2:] == ["image.created", "job.succeeded"]

    late = a_record()
    with pytest.raises(LeaseLost):
        add(store, late, "s", lease=done.lease)
    with pytest.raises(ImageNotFound):
        store.record(late.image_id, "public")
    assert store.last_image_id("public", "s") != late.image_id


def test_history_is_paginated_newest_first_per_owner(store: Store):
    made = [add(store, a_record()).image_id for _ in range(5)]
    add(store, a_record(owner="other"))

    first = store.history("public", PageQuery(limit=2))
    rest = store.history("public", PageQuery(limit=10, after=first[-1].image_id))

    assert [record.image_id for record in first + rest] == made[::-1]


def ids(records: list[ImageRecord]) -> list[str]:
    return [record.image_id for record in records]


def test_pages_have_an_order_and_bounds_of_time(store: Store):
    first, second, third = (add(store, a_record()) for _ in range(3))

    oldest = store.history("public", PageQuery(limit=2, is_ascending=True))
    rest = store.history("public", PageQuery(limit=9, is_ascending=True, after=oldest[-1].image_id))
    late = store.history("public", PageQuery(limit=9, created_after=second.created_at))
    early = store.history("public", PageQuery(limit=9, created_before=second.created_at))

    assert ids(oldest + rest) == [first.image_id, second.image_id, third.image_id]
    assert ids(late) == [third.image_id, second.image_id]
    assert ids(early) == [first.image_id]


def test_images_are_annotated_and_found_by_it(store: Store):
    def found(**wanted: object) -> list[str]:
        return ids(store.history("public", PageQuery(limit=9), ImageFilter(**wanted)))

    fruit = Annotations(metadata={"order": "7", "größe": "a'b\"c"}, tags=("fruit", "rote Äpfel"))
    apple, plain = add(store, replace(a_record(), annotations=fruit)), add(store, a_record())

    assert store.record(apple.image_id, "public").annotations == fruit
    assert found(tags=["fruit", "rote Äpfel"]) == found(metadata={"order": "7", "größe": "a'b\"c"}) == [apple.image_id]
    assert found(tags=["fruit", "metal"]) == found(tags=["frui"]) == found(metadata={"order": "8"}) == []
    assert found(ids=[plain.image_id, new_id()]) == [plain.image_id]

    changed = store.annotate(plain.image_id, "public", lambda old: old.changed({"order": "7"}, ["metal"]))
    store.annotate(apple.image_id, "public", lambda old: old.changed({"order": None}, None))

    assert changed.annotations == store.record(plain.image_id, "public").annotations
    assert found(metadata={"order": "7"}) == found(tags=["metal"]) == [plain.image_id]
    assert store.record(apple.image_id, "public").annotations == replace(fruit, metadata={"größe": "a'b\"c"})
    updated = [event for event in store.log.read(after=0, limit=99) if event.type == "image.updated"]
    assert [event.image_id for event in updated] == [plain.image_id, apple.image_id]
    with pytest.raises(ImageNotFound):
        store.annotate(apple.image_id, "other", lambda old: old)


def test_images_are_found_by_what_they_were_made_from(store: Store):
    source = add(store, a_record())
    request = replace(a_record().request, source=Source(image_id=source.image_id, strength=0.5))
    copy = add(store, a_record(request=request))
    add(store, a_record(request=request, model=""))  # an upload of a file that names the source

    assert ids(store.history("public", PageQuery(limit=9), ImageFilter(made_from=source.image_id))) == [copy.image_id]


def test_images_are_filtered_by_session_and_prompt(store: Store):
    def found(**wanted: object) -> list[str]:
        return ids(store.history("public", PageQuery(limit=9), ImageFilter(**wanted)))

    prompts = ("a Red apple im Ärmel", "100% blue_cup")
    apple, cup = (
        add(store, a_record(request=replace(a_record().request, prompt=prompt)), *sessions).image_id
        for prompt, sessions in zip(prompts, (("desk", "default"), ("default",)), strict=True)
    )
    upload = add(store, a_record(request=None, model=""), "default")
    add(store, a_record(owner="other"), "desk")

    assert found() == [upload.image_id, cup, apple]
    assert found(session="desk") == [apple]
    assert found(session="default", prompt="RED") == [apple]
    assert found(prompt="apple") == [apple]
    assert found(prompt="%") == [cup]
    assert found(prompt="e_c") == [cup]
    assert found(prompt="Ärmel") == [apple]
    store.delete(apple, "public")
    assert found(session="desk") == []


def test_images_are_filtered_by_label(store: Store):
    def found(label: str, owner: str = "public") -> list[str]:
        return [record.image_id for record in store.history(owner, PageQuery(limit=9), wanted=ImageFilter(label=label))]

    one, same, other = (add(store, a_record(digest=digest * 64)).image_id for digest in "aab")
    theirs = add(store, a_record(owner="other", digest="a" * 64)).image_id
    store.label("public", "a" * 64, {"apple": 0.9, "plate": 0.2})
    store.label("public", "b" * 64, {"cup": 1.0})
    store.label("public", "c" * 64, {"ghost": 1.0})  # deleted before it was described

    assert found("apple") == found("plate") == [same, one]
    assert found("cup") == [other]
    assert found("ghost") == found("apple", "other") == []
    store.label("public", "a" * 64, {"pear": 0.9})  # by another model
    assert (found("apple"), found("pear")) == ([], [same, one])
    store.delete(one, "public")
    assert found("pear") == [same]
    store.delete(same, "public")
    add(store, a_record(digest="a" * 64))
    assert found("pear") == []
    assert theirs


def test_deleting_an_image_deletes_its_content_and_results(store: Store):
    record = add(store, a_record(), "s")
    store.keep_artifact(a_key(record), b"result")

    store.delete(record.image_id, "public")

    with pytest.raises(ImageNotFound):
        store.record(record.image_id, "public")
    with pytest.raises(ImageNotFound):
        store.png(record.image_id)
    assert store.artifact(a_key(record)) is None
    assert store.last_image_id("public", "s") is None


def test_deleting_an_image_deletes_the_regions_that_were_asked_for(store: Store):
    record = add(store, a_record())
    (region_id,) = store.regions.add(record.image_id, [RegionSelector(text="apple")])
    store.delete(record.image_id, "public")
    with pytest.raises(RegionNotFound):
        store.regions.get(record.image_id, region_id)


def test_results_are_kept_while_an_image_has_their_pixels(store: Store):
    one, same = add(store, a_record()), add(store, a_record())
    store.keep_artifact(a_key(one), b"result")

    store.delete(one.image_id, "public")
    assert store.artifact(a_key(same)) == b"result"
    store.delete(same.image_id, "public")
    assert store.artifact(a_key(same)) is None


def test_results_of_equal_pixels_are_separate_per_owner(store: Store):
    mine, theirs = add(store, a_record()), add(store, a_record(owner="other"))
    assert mine.digest == theirs.digest
    store.keep_artifact(a_key(mine), b"mine")
    assert store.artifact(a_key(theirs)) is None
    store.keep_artifact(a_key(theirs), b"theirs")

    store.delete(mine.image_id, "public")

    assert store.artifact(a_key(mine)) is None
    assert store.artifact(a_key(theirs)) == b"theirs"


def test_orphaned_results_are_swept(open_store: OpenStore, blobs_location: Path | str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.store.store.ORPHAN_AGE", timedelta(days=-1))
    store = open_store()
    record = add(store, a_record())
    kept, foreign = a_key(record), replace(a_key(record), owner="other")
    for key in (kept, foreign):
        store.keep_artifact(key, b"result")
    without_owner = f"artifacts/{str(kept).removeprefix('public/')}"
    blobs = Blobs(blobs_location)
    blobs.put(without_owner, b"of an earlier version")

    store.sweep()

    assert store.artifact(kept) == b"result"
    assert store.png(record.image_id) == b"png"
    assert store.artifact(foreign) is None
    assert blobs.get(without_owner) is None


def test_retention_by_age(open_store: OpenStore):
    store = open_store(RetentionSettings(max_age_days=30))
    old = add(store, a_record(created_at=datetime.now(UTC) - timedelta(days=31)), "old")
    young = add(store, a_record(), "young")

    store.sweep()

    assert [record.image_id for record in store.history("public", PageQuery(limit=10))] == [young.image_id]
    with pytest.raises(ImageNotFound):
        store.png(old.image_id)


def test_retention_by_bytes_drops_each_owner_s_oldest(open_store: OpenStore):
    store = open_store(RetentionSettings(max_bytes_per_owner=250))
    mine = [add(store, a_record(), png=b"x" * 100).image_id for _ in range(3)]
    theirs = [add(store, a_record(owner="other"), png=b"x" * 100).image_id for _ in range(2)]

    store.sweep()

    assert [record.image_id for record in store.history("public", PageQuery(limit=10))] == mine[:0:-1]
    assert len(store.history("other", PageQuery(limit=10))) == len(theirs)


def test_a_sweep_keeps_what_is_referenced(store: Store):
    record = add(store, a_record(), "s")
    store.keep_artifact(a_key(record), b"result")

    store.sweep()

    assert store.png(record.image_id) == b"png"
    assert store.artifact(a_key(record)) == b"result"
    assert store.last_image_id("public", "s") == record.image_id


def test_statistics_count_images_sessions_and_events(store: Store):
    assert store.statistics().newest_image_age_s is None
    add(store, a_record(), "a", "b", png=b"12345")

    facts = store.statistics()

    assert (facts.images, facts.image_bytes, facts.sessions, facts.events) == (1, 5, 2, 1)
    assert 0 <= facts.newest_image_age_s < 60


def test_statistics_count_waiting_jobs_and_deliveries_with_their_age(store: Store):
    empty = store.statistics()
    assert empty.jobs == dict.fromkeys(JobState, 0)
    assert (empty.oldest_job_age_s, empty.newest_event) == ({"queued": 0, "running": 0}, 0)
    assert (empty.deliveries, empty.oldest_delivery_age_s) == (dict.fromkeys(DeliveryState, 0), 0)
    store.webhooks.register("public", "https://receiver.example/hook", secret="whsec_c2VjcmV0", types=["job.started"])
    for number in range(3):
        store.jobs.submit(an_order(number))
    assert len(store.jobs.lease("w", lease_s=30, limit=1)) == 1
    store.webhooks.expand(100)

    facts = store.statistics()

    assert {state: count for state, count in facts.jobs.items() if count} == {"queued": 2, "running": 1}
    assert facts.oldest_job_age_s.keys() == {"queued", "running"}
    assert all(0 < age < 60 for age in facts.oldest_job_age_s.values())
    assert facts.deliveries == {"pending": 1, "delivered": 0, "failed": 0}
    assert 0 < facts.oldest_delivery_age_s < 60
    assert facts.newest_event == facts.events == 4  # three were submitted, one has started


class Lock:
    """The lock of all writers, as the connections of one engine acquire it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_requested = Event()

        @listens_for(engine, "before_cursor_execute")
        def look(_connection, _cursor, statement, *_):
            if statement == "BEGIN IMMEDIATE" or "pg_advisory_xact_lock" in statement:
                self._is_requested.set()

    def wait_for_writer(self) -> None:
        """Wait until a connection blocks on it."""
        assert self._is_requested.wait(300)
        if self._engine.dialect.name == "postgresql":
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                while not connection.execute(text(waiting)).scalar_one():
                    pass


def test_event_numbers_follow_the_order_of_commits(open_store: OpenStore):
    """A writer with a lower number blocks the next one until it commits."""
    store, other = open_store(), open_store()
    first, second = a_record(), a_record()
    with writing(store.log.engine) as connection:
        connection.execute(
            events.insert().values(
                type="image.created",
                owner="public",
                image_id=first.image_id,
                payload={},
                created_at=datetime.now(UTC),
            )
        )
        follower = Thread(target=add, args=(other, second))
        lock = Lock(other.log.engine)
        follower.start()
        lock.wait_for_writer()
        with other.log.engine.connect() as reader:
            assert reader.execute(select(events.c.image_id)).scalars().all() == []
    follower.join()

    with other.log.engine.connect() as reader:
        seen = reader.execute(select(events.c.image_id).order_by(events.c.sequence)).scalars().all()
    assert seen == [first.image_id, second.image_id]


def test_a_new_store_can_be_opened_concurrently(open_store: OpenStore):
    stores: list[Store] = []
    threads = [Thread(target=lambda: stores.append(open_store())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for store in stores:
        add(store, a_record())
    assert len(stores[0].history("public", PageQuery(limit=10))) == 4


def test_partial_files_are_swept_and_never_served(tmp_path: Path):
    blobs = Blobs(tmp_path)
    blobs.put("images/whole.png", b"whole")
    staged = tmp_path / "images" / "half.png#1"
    staged.write_bytes(b"ha")

    assert blobs.get("images/half.png") is None
    assert [name for name, _ in blobs.list("images")] == ["images/whole.png"]
    assert blobs.sweep_staged(older_than_s=0) == 1
    assert not staged.exists()


def test_ids_are_valid_sort_by_time_and_differ_within_a_millisecond(monkeypatch: pytest.MonkeyPatch):
    now_ms = 1_768_742_549_553
    ids = []
    for later_ms in (0, 1, 999, 86_400_000, 10**11):
        clock = SimpleNamespace(time_ns=lambda at=now_ms + later_ms: at * 1_000_000 + 999_999)
        monkeypatch.setattr("pipeline.store.common.time", clock)
        ids.append(new_id())
        assert uuid.UUID(ids[-1]).int >> 80 == now_ms + later_ms
        assert len({new_id() for _ in range(100)}) == 100
    assert ids == sorted(ids)
    for made in map(uuid.UUID, ids):
        assert (made.version, made.variant) == (7, uuid.RFC_4122)
