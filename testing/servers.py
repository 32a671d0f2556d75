"""Real servers for tests: PostgreSQL from Debian, and an S3 that moto plays."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testing.debian import ensure
from testing.ports import quiet_port

POSTGRES_BINARIES = "/usr/lib/postgresql/*/bin"


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL of our own."""

    url: str  # of its first database, `postgresql://…/postgres`
    stop: Callable[[], None]  # as if its machine failed
    start: Callable[[], None]


@contextmanager
def postgres(*, fsync: bool = False) -> Iterator[Postgres]:
    """Run a PostgreSQL of our own.

    Args:
        fsync: whether commits wait for the disk, as where something is measured.
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


@contextmanager
def s3() -> Iterator[str]:
    """Run an S3-compatible server; yields its endpoint."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def _postgres_binaries() -> Path | None:
    return max(Path("/").glob(POSTGRES_BINARIES.lstrip("/")), default=None)
