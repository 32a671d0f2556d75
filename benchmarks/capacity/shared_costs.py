"""Costs of the components shared by all replicas, without Ray: a part of `benchmarks stage-costs`."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles

import psycopg
from sqlalchemy import Connection, Engine

from benchmarks.engines.diffusion import request_for
from graphs.events.feed import EventFeed
from pipeline.event_records import STEPPED, EventRecord
from pipeline.events import ImageCreated
from pipeline.jobs import JobOrder
from pipeline.records import ImageRecord
from pipeline.settings import RetentionSettings, ServiceSettings
from pipeline.store import Blobs, EventLog, JobStore, Store, new_id, open_database
from planning.costs import Database
from testing.servers import postgres

IMAGES = 200
UNDISTURBED = 10  # the 10th percentile of the rounds: other load on the machine only adds time
WARM_UP = 20
NOTICES = 50  # per response of the hub
PNG = bytes(20_000)
LABELS = {"apple": 0.7, "plate": 0.2}


class TimedLog(EventLog):
    """A log that measures how long its transactions block other writers."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.held_s = 0.0

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """As the log's own."""
        started = time.perf_counter()
        with super().writing() as connection:
            yield connection
        self.held_s += time.perf_counter() - started


def transactions_s(folder: Path) -> dict[Database, float]:
    """Seconds for which all transactions of one image block other writers, by database."""
    folder.mkdir(exist_ok=True)
    sqlite = image_transactions_s(f"sqlite:///{folder / 'truth.sqlite'}", folder)
    with postgres(fsync=True) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE planning")
        postgresql = image_transactions_s(
            server.url.replace("postgresql:", "postgresql+psycopg:").removesuffix("postgres") + "planning", folder
        )
    return {"sqlite": sqlite, "postgresql": postgresql}


def image_transactions_s(url: str, folder: Path) -> float:
    """Accept, start, store and label images one after the other; the seconds of their transactions."""
    engine = open_database(url)
    try:
        store, log = Store(engine, Blobs(folder / "blobs"), RetentionSettings()), TimedLog(engine)
        store.log, store.jobs = log, JobStore(log)
        times = []
        for number in range(WARM_UP + IMAGES):
            before = log.held_s
            make_one(store, number)
            times.append(log.held_s - before)
        return undisturbed(times[WARM_UP:])
    finally:
        engine.dispose()


def undisturbed(times: list[float]) -> float:
    """The time with little other load."""
    return quantiles(times, n=UNDISTURBED)[0]


def make_one(store: Store, number: int) -> None:
    """All writes of one image."""
    request = request_for(ServiceSettings().load_profile().diffusion, "a red apple", number)
    order = JobOrder(
        job_id=new_id(),
        kind="generate",
        owner="public",
        request_id=f"r{number}",
        request=asdict(request),
        sessions=("s",),
        is_waited_for=True,
    )
    lease = store.jobs.submit(order, holder="h", lease_s=15, max_waiting=1000).lease
    if lease is None:
        raise RuntimeError("the job was not begun")
    store.add(*image_of(number), ["s"], created_of(number), lease)
    store.label("public", f"{number:064}", LABELS)


def image_of(number: int) -> tuple[ImageRecord, bytes]:
    """A new image with its PNG."""
    record = ImageRecord(
        image_id=new_id(),
        digest=f"{number:064}",
        owner="public",
        width=128,
        height=128,
        request=None,
        model="m",
        created_at=datetime.now(UTC),
    )
    return record, PNG


def created_of(number: int) -> ImageCreated:
    """The event of a created image."""
    return ImageCreated(request_id=f"r{number}", image_id=new_id(), owner="public", digest=f"{number:064}", seconds=1.0)


def log_row_s(folder: Path) -> float:
    """Seconds of reading one event of a log that `transactions_s` has written."""
    engine = open_database(f"sqlite:///{folder / 'truth.sqlite'}")
    try:
        log = EventLog(engine)
        times = []
        for _ in range(30):
            started = time.perf_counter()
            rows = log.read(after=0, limit=500)
            times.append((time.perf_counter() - started) / len(rows))
        return undisturbed(times)
    finally:
        engine.dispose()


def notice_s() -> float:
    """Seconds for one step received from another replica: unpickled, and dropped because it has no subscriber here."""
    heard = [
        EventRecord(
            sequence=None,
            type=STEPPED,
            owner="public",
            image_id=None,
            job_id=new_id(),
            payload={"request_id": "r", "step": 3, "num_steps": 15, "preview": None},
            created_at=datetime.now(UTC),
        )
        for _ in range(NOTICES)
    ]
    feed, sent = EventFeed(None, None), pickle.dumps(heard)  # type: ignore[arg-type]  # what passes isn't in the log
    times = []
    for _ in range(50):
        started = time.perf_counter()
        for record in pickle.loads(sent):  # our own bytes of a line before
            feed.publish(record)
        times.append((time.perf_counter() - started) / NOTICES)
    return undisturbed(times)
