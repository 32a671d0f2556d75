"""Real servers for tests: PostgreSQL from Debian, and an S3 that moto plays."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.debian import ensure
from tests.ports import quiet_port

POSTGRES_BINARIES = "/usr/lib/postgresql/*/bin"


@contextmanager
def postgres(*, fsync: bool = False) -> Iterator[str]:
    """Run a PostgreSQL of our own; yields the URL of its first database, as `postgresql://…/postgres`.

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
    run = lambda *command: subprocess.run([*as_postgres, *map(str, command)], check=True, capture_output=True)  # noqa: E731
    run(binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync={fsync:d}"
    run(binaries / "pg_ctl", "-D", data, "-w", "-l", log, "-o", options, "start")
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop")
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
