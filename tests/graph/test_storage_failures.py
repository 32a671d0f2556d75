"""What clients see while the storage fails, and once it works again: a 503 that says so, and nothing lost."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import event, insert

from graphs.events import feed
from graphs.generation import job_worker as job_runner
from pipeline.errors import StorageUnavailable
from pipeline.settings import StorageSettings
from pipeline.store import Store
from pipeline.store.tables import events
from testing.harness import Bench, make_bench, working
from testing.servers import postgres, s3
from testing.waiting import until
from tests.graph.clients import client_of, is_problem
from tests.graph.test_jobs_http import ASYNC, ended

pytestmark = pytest.mark.anyio

PEAR = {"prompt": "pear", "seed": 3, "steps": 3}
A_TIME = datetime(2026, 1, 1, tzinfo=UTC)

Failure = Callable[[Store, Path], AbstractContextManager[None]]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    for module, wait in ((job_runner, "POLL_S"), (job_runner, "PAUSE_S"), (feed, "PAUSE_S")):
        monkeypatch.setattr(module, wait, 0.02)


@contextmanager
def pragma(store: Store, failing: str, working: str) -> Iterator[None]:
    """Let every connection run one statement now, and another one later."""
    statement = failing

    def checkout(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(statement)

    event.listen(store.log.engine, "checkout", checkout)
    try:
        yield
    finally:
        statement = working


def fill(store: Store, size: int) -> None:
    """Write events of one size until there is no room for another."""
    filler = {"type": "x", "owner": "nobody", "payload": "x" * size, "created_at": A_TIME}
    while True:
        with store.log.writing() as connection:
            connection.execute(insert(events).values(filler))


@contextmanager
def full_database(store: Store, _: Path) -> Iterator[None]:
    """A file that may not grow, and whose pages are full."""
    with pragma(store, "PRAGMA max_page_count=1", "PRAGMA max_page_count=1000000"):
        for size in (2000, 200, 1):
            with pytest.raises(StorageUnavailable):
                fill(store, size)
        yield


@contextmanager
def read_only_database(store: Store, _: Path) -> Iterator[None]:
    with pragma(store, "PRAGMA query_only=1", "PRAGMA query_only=0"):
        yield


@contextmanager
def locked_database(store: Store, folder: Path) -> Iterator[None]:
    """Another program writes, and never ends."""
    with pragma(store, "PRAGMA busy_timeout=0", "PRAGMA busy_timeout=60000"):
        other = sqlite3.connect(folder / "truth.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.close()


@contextmanager
def lost_folder(_: Store, folder: Path) -> Iterator[None]:
    """Where images were, there is no folder any more."""
    blobs, elsewhere = folder / "blobs", folder / "elsewhere"
    blobs.rename(elsewhere)
    blobs.touch()
    try:
        yield
    finally:
        blobs.unlink()
        elsewhere.rename(blobs)


FAILURES = [full_database, read_only_database, locked_database, lost_folder]


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_storage_that_takes_nothing_is_said_and_works_again_later(
    bench: Bench, tmp_path: Path, failure: Failure
):
    async with client_of(bench) as client:
        before = (await client.post("/generate", json=PEAR)).json()["image_id"]

        with failure(bench.store, tmp_path):
            refused = await client.post("/generate", json=PEAR)
            known = await client.get("/v1/images")

        assert is_problem(refused, 503, "storage_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        assert [image["image_id"] for image in known.json()["images"]] == [before]  # what can be read is
        again = await client.post("/generate", json=PEAR)
        assert again.status_code == 200, again.text
        assert (await client.get(f"/v1/images/{before}/content")).status_code == 200


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_job_whose_image_cannot_be_kept_is_kept_itself(
    bench: Bench,
    tmp_path: Path,
    failure: Failure,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    bench.workers.gate.clear()
    async with client_of(bench) as client:
        url = (await client.post("/generate", json=PEAR, headers=ASYNC)).json()["url"]
        await until(lambda: bench.workers.calls["generate"])

        with failure(bench.store, tmp_path):
            bench.workers.gate.set()
            await until(lambda: "could not be stored" in caplog.text or bench.workers.calls["encode"] > 1)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + job_runner.LEASE_S)

        assert (await ended(client, url))["state"] == "succeeded"


async def test_what_is_computed_is_answered_although_it_cannot_be_kept(bench: Bench, tmp_path: Path):
    async with client_of(bench) as client:
        image_id = (await client.post("/generate", json=PEAR)).json()["image_id"]
        with read_only_database(bench.store, tmp_path):
            answers = [await client.post(f"/{call}?image_id={image_id}") for call in ("segment", "analyze")]
        assert [answer.status_code for answer in answers] == [200, 200]


async def test_a_database_that_is_away_for_a_while_costs_nothing_but_time(tmp_path: Path):
    with postgres() as server:
        url = server.url.replace("postgresql:", "postgresql+psycopg:")
        bench = make_bench(tmp_path, storage=StorageSettings(database=url))
        async with working(bench), client_of(bench) as client:
            before = (await client.post("/generate", json=PEAR)).json()["image_id"]
            bench.workers.gate.clear()
            job = (await client.post("/generate", json=PEAR, headers=ASYNC)).json()["url"]
            await until(lambda: bench.workers.calls["generate"] == 2)

            server.stop()
            refused = [
                await client.get("/v1/images"),
                await client.post("/generate", json=PEAR),
                await client.post("/segment"),
            ]
            server.start()
            bench.workers.gate.set()

            assert all(is_problem(answer, 503, "storage_unavailable") for answer in refused)
            assert (await ended(client, job))["state"] == "succeeded"
            assert before in [image["image_id"] for image in (await client.get("/v1/images")).json()["images"]]
        bench.store.log.engine.dispose()


async def test_an_object_store_that_is_away_for_a_while_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bench = make_bench(tmp_path, storage=StorageSettings(blobs=server.new_bucket()))
        async with working(bench), client_of(bench) as client:
            before = (await client.post("/generate", json=PEAR)).json()["image_id"]
            content = (await client.get(f"/v1/images/{before}/content")).content

            server.stop()
            refused = await client.post("/generate", json=PEAR)
            job = await client.post("/generate", json=PEAR, headers=ASYNC)
            known = await client.get("/v1/images")
            segmented = await client.post(f"/segment?image_id={before}")
            server.start()

            assert is_problem(refused, 503, "storage_unavailable")
            assert job.status_code == 202  # jobs and records are in the database
            assert [image["image_id"] for image in known.json()["images"]] == [before]
            assert segmented.status_code == 200  # of pixels in memory; it can't be kept
            assert (await ended(client, job.json()["url"]))["state"] == "succeeded"
        bench.store.log.engine.dispose()

        bench = make_bench(tmp_path, storage=bench.settings.storage)  # what another replica reads
        async with client_of(bench) as client:
            assert (await client.get(f"/v1/images/{before}/content")).content == content
        bench.store.log.engine.dispose()
