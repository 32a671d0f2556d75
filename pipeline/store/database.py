"""Access to SQLite and PostgreSQL: connections, serialised writes, and schema migrations."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.exc import InterfaceError, OperationalError

from pipeline.errors import StorageUnavailable

BUSY_TIMEOUT_MS = 60_000  # of a writer that waits for others, on a busy machine
WAL_RETRY_S = 0.02
WRITE_LOCK = 0x61695F70  # the advisory lock of all writers on PostgreSQL
MIGRATION_LOCK = 0x61695F6D

logger = logging.getLogger("ai_pipeline")

MIGRATIONS = Path(__file__).parent / "migrations"


def open_database(url: str) -> Engine:
    """Open a database by its SQLAlchemy URL, `sqlite:///…` or `postgresql+psycopg://…`, and migrate its schema.

    Operational errors, such as a full disk, a lock that is never released or an unreachable server, are raised as
    `StorageUnavailable`, here and by every use of the engine.
    """
    engine = create_engine(url, pool_pre_ping=True, json_serializer=_as_json)
    event.listen(engine, "handle_error", _translate)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    migrate(engine)
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open the only writing transaction: its sequence numbers are committed before any higher ones are assigned.

    Otherwise a reader of the event log could pass a number that is committed later, and miss its event.
    """
    with engine.connect().execution_options(writing=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": WRITE_LOCK})
        yield connection


def database_time(connection: Connection) -> float:
    """Return the seconds since 1970 by the clock that all users of a database share.

    The clocks of machines that share a database may differ by more than a lease.
    """
    if connection.dialect.name == "postgresql":
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return time.time()  # all users of an SQLite file share a machine, and its clock


def migrate(engine: Engine) -> None:
    """Migrate the schema to the newest version; of concurrent processes one migrates and the others wait."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect().execution_options(writing=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _as_json(value: object) -> str:
    """Serialize what a JSON column holds; unescaped, since SQLite finds no key that is escaped."""
    return json.dumps(value, ensure_ascii=False)


def _translate(context: ExceptionContext) -> None:
    if not context.is_pre_ping and isinstance(context.sqlalchemy_exception, OperationalError | InterfaceError):
        logger.error("The database failed: %s", context.original_exception)
        raise StorageUnavailable from context.original_exception


def _use_wal(cursor: Any) -> None:
    """Switch a database to WAL mode; retry, as SQLite raises "locked" without waiting if others switch too."""
    last_try = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > last_try:
                raise
            time.sleep(WAL_RETRY_S)


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not start transactions itself
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=NORMAL")  # safe against process crashes; power loss may lose the newest writes
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
