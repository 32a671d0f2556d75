"""Storage failures as seen by clients: a 503 during the failure, and nothing is lost afterwards."""

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
from tests.integration.clients import client_of, is_problem
from tests.integration.graphs.http.test_jobs import ASYNC, ended

pytestmark = pytest.mark.anyio

PEAR = {"prompt": "pear", "seed": 3, "steps": 3}
A_TIME = datetime(2026, 1, 1, tzinfo=UTC)

Failure = Callable[[Store, Path], AbstractContextManager[None]]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    for module, wait in ((job_runner, "POLL_S"), (job_runner, "PAUSE_S"), (feed, "PAUSE_S")):
        monkeypatch.setattr(module, wait, 0.02)


@contextmanager
def pragma(store: Store, failing: str, working: str) -> Iterator[None]:
    """Run the statement `failing` on every connection inside the block, and `working` afterwards."""
    statement = failing

    def checkout(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(statement)

    event.listen(store.log.engine, "checkout", checkout)
    try:
        yield
    finally:
        statement = working


def fill(store: Store, size: int) -> None:
    """Write events of one size until the database is full."""
    filler = {"type": "x", "owner": "nobody", "payload": "x" * size, "created_at": A_TIME}
    while True:
        with store.log.writing() as connection:
            connection.execute(insert(events).values(filler))


@contextmanager
def full_database(store: Store, _: Path) -> Iterator[None]:
    """A database file that is full and may not grow."""
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
    """Another program holds the write lock."""
    with pragma(store, "PRAGMA busy_timeout=0", "PRAGMA busy_timeout=60000"):
        other = sqlite3.connect(folder / "truth.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.close()


@contextmanager
def lost_folder(_: Store, folder: Path) -> Iterator[None]:
    """The folder of images is missing."""
    blobs, moved = folder / "blobs", folder / "elsewhere"
    blobs.rename(moved)
    blobs.touch()
    try:
        yield
    finally:
        blobs.unlink()
        moved.rename(blobs)


FAILURES = [full_database, read_only_database, locked_database, lost_folder]


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_storage_failure_returns_503_until_the_storage_works_again(
    bench: Bench, tmp_path: Path, failure: Failure
):
    async with client_of(bench) as client:
        before = (await client.post("/generate", json=PEAR)).json()["image_id"]

        with failure(bench.store, tmp_path):
            rejected = await client.post("/generate", json=PEAR)
            known = await client.get("/v1/images")

        assert is_problem(rejected, 503, "storage_unavailable")
        assert int(rejected.headers["Retry-After"]) > 0
        assert [image["image_id"] for image in known.json()["images"]] == [before]  # reads still work
        again = await client.post("/generate", json=PEAR)
        assert again.status_code == 200, again.text
        assert (await client.get(f"/v1/images/{before}/content")).status_code == 200


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_job_survives_if_its_image_cannot_be_stored(
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


async def test_results_are_returned_although_they_cannot_be_stored(bench: Bench, tmp_path: Path):
    async with client_of(bench) as client:
        image_id = (await client.post("/generate", json=PEAR)).json()["image_id"]
        with read_only_database(bench.store, tmp_path):
            responses = [await client.post(f"/{call}?image_id={image_id}") for call in ("segment", "analyze")]
        assert [response.status_code for response in responses] == [200, 200]


async def test_nothing_is_lost_in_an_outage_of_the_database(tmp_path: Path):
    with postgres() as server:
        url = server.url.replace("postgresql:", "postgresql+psycopg:")
        bench = make_bench(tmp_path, storage=StorageSettings(database=url))
        async with working(bench), client_of(bench) as client:
            before = (await client.post("/generate", json=PEAR)).json()["image_id"]
            bench.workers.gate.clear()
            job = (await client.post("/generate", json=PEAR, headers=ASYNC)).json()["url"]
            await until(lambda: bench.workers.calls["generate"] == 2)

            server.stop()
            rejected = [
                await client.get("/v1/images"),
                await client.post("/generate", json=PEAR),
                await client.post("/segment"),
            ]
            server.start()
            bench.workers.gate.set()

            assert all(is_problem(response, 503, "storage_unavailable") for response in rejected)
            assert (await ended(client, job))["state"] == "succeeded"
            assert before in [image["image_id"] for image in (await client.get("/v1/images")).json()["images"]]
        bench.store.log.engine.dispose()


async def test_nothing_is_lost_in_an_outage_of_the_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bench = make_bench(tmp_path, storage=StorageSettings(blobs=server.new_bucket()))
        async with working(bench), client_of(bench) as client:
            before = (await client.post("/generate", json=PEAR)).json()["image_id"]
            content = (await client.get(f"/v1/images/{before}/content")).content

            server.stop()
            rejected = await client.post("/generate", json=PEAR)
            job = await client.post("/generate", json=PEAR, headers=ASYNC)
            known = await client.get("/v1/images")
            segmented = await client.post(f"/segment?image_id={before}")
            server.start()

            assert is_problem(rejected, 503, "storage_unavailable")
            assert job.status_code == 202  # jobs and records are in the database
            assert [image["image_id"] for image in known.json()["images"]] == [before]
            assert segmented.status_code == 200  # computed from pixels in memory, not stored
            assert (await ended(client, job.json()["url"]))["state"] == "succeeded"
        bench.store.log.engine.dispose()

        bench = make_bench(tmp_path, storage=bench.settings.storage)  # as another replica reads it
        async with client_of(bench) as client:
            assert (await client.get(f"/v1/images/{before}/content")).content == content
        bench.store.log.engine.dispose()
