"""Real servers for tests: PostgreSQL from Debian, and moto's S3."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from testing.debian import ensure
from testing.ports import quiet_port
from testing.waiting import PATIENCE_S

POSTGRES_BINARIES = "/usr/lib/postgresql/*/bin"


@dataclass(frozen=True)
class Postgres:
    """A temporary PostgreSQL server."""

    url: str  # of its first database, `postgresql://…/postgres`
    stop: Callable[[], None]  # immediately, like a crash
    start: Callable[[], None]


@contextmanager
def postgres(*, fsync: bool = False) -> Iterator[Postgres]:
    """Run a temporary PostgreSQL server.

    Args:
        fsync: whether commits wait for the disk, as in benchmarks.
    """
    binaries = ensure("postgresql", _postgres_binaries)
    as_postgres = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if as_postgres:
        shutil.chown(folder, "postgres")
    port = quiet_port()
    data, log = folder / "data", folder / "log"

    def run(*command: object) -> None:
        subprocess.run([*as_postgres, *map(str, command)], check=True, capture_output=True)

    run(binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync={fsync:d}"
    server = Postgres(
        url=f"postgresql://postgres@127.0.0.1:{port}/postgres",
        stop=lambda: run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop"),
        start=lambda: run(binaries / "pg_ctl", "-D", data, "-w", "-l", log, "-o", options, "start"),
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class S3:
    """A moto server of S3; its data survives `stop`."""

    endpoint: str
    stop: Callable[[], None]
    start: Callable[[], None]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with the endpoint and credentials for obstore."""
        return {
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def new_bucket(self) -> str:
        """Create an empty bucket; return the URL of a folder in it."""
        bucket = f"b{uuid.uuid4().hex}"
        self.make_bucket(bucket)
        return f"s3://{bucket}/truth"

    def make_bucket(self, name: str) -> None:
        """Create a bucket."""
        httpx.put(f"{self.endpoint}/{name}", timeout=PATIENCE_S).raise_for_status()


@contextmanager
def s3() -> Iterator[S3]:
    """Run an S3-compatible server."""
    from moto.server import ThreadedMotoServer

    port = quiet_port()
    running: list[ThreadedMotoServer] = []

    def start() -> None:
        running.append(ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False))
        running[-1].start()

    server = S3(endpoint=f"http://127.0.0.1:{port}", stop=lambda: running.pop().stop(), start=start)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _postgres_binaries() -> Path | None:
    return max(Path("/").glob(POSTGRES_BINARIES.lstrip("/")), default=None)
