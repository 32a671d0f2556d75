"""Real servers for tests: PostgreSQL from Debian, and an S3 that moto plays."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.launcher import free_port

POSTGRES_BINARIES = "/usr/lib/postgresql/*/bin"


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL of our own; yields the URL of its first database, as `postgresql://…/postgres`."""
    binaries = _postgres_binaries()
    as_postgres = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if as_postgres:
        shutil.chown(folder, "postgres")
    port = free_port()
    data, log = folder / "data", folder / "log"
    run = lambda *command: subprocess.run([*as_postgres, *map(str, command)], check=True, capture_output=True)  # noqa: E731
    run(binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
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


def _postgres_binaries() -> Path:
    found = sorted(Path("/").glob(POSTGRES_BINARIES.lstrip("/")))
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "postgresql"], check=False, stdout=subprocess.DEVNULL)
        found = sorted(Path("/").glob(POSTGRES_BINARIES.lstrip("/")))
    if not found:
        message = "PostgreSQL is missing: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found[-1]
