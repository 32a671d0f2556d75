"""One way to SQLite and PostgreSQL: how connections open, how writes are ordered, how the schema is brought up."""

from __future__ import annotations

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

BUSY_TIMEOUT_MS = 60_000  # of a writer whose turn others take, on a machine that has other work as well
WAL_RETRY_S = 0.02
WRITE_LOCK = 0x61695F70  # the advisory lock of all writers on PostgreSQL
MIGRATION_LOCK = 0x61695F6D

logger = logging.getLogger("ai_pipeline")

MIGRATIONS = Path(__file__).parent / "migrations"


def open_database(url: str) -> Engine:
    """Open a database by its SQLAlchemy URL, `sqlite:///…` or `postgresql+psycopg://…`, and bring its schema up.

    What is not the fault of a statement, such as a full disk, a lock that is never let go or a server that is away, is
    raised as `StorageUnavailable`, here and by all that is done with the engine.
    """
    engine = create_engine(url, pool_pre_ping=True)
    event.listen(engine, "handle_error", _translate)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    migrate(engine)
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that is the only writing one: what it numbers is committed before anything gets a higher number.

    Otherwise a reader of the event log could pass a number that is committed later, and never see it.
    """
    with engine.connect().execution_options(writing=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": WRITE_LOCK})
        yield connection


def database_time(connection: Connection) -> float:
    """Tell the time in seconds since 1970 by the clock that all users of a database share.

    Where several machines share one, their own clocks may differ by more than a lease.
    """
    if connection.dialect.name == "postgresql":
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return time.time()  # whoever shares an SQLite file shares a clock


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest version; of several processes that try at once, one does and the others wait."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect().execution_options(writing=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _translate(context: ExceptionContext) -> None:
    if not context.is_pre_ping and isinstance(context.sqlalchemy_exception, OperationalError | InterfaceError):
        logger.error("The database failed: %s", context.original_exception)
        raise StorageUnavailable from context.original_exception


def _use_wal(cursor: Any) -> None:
    """Switch a database to its write-ahead log; while others do so too, SQLite says "locked" without waiting."""
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
    connection.isolation_level = None  # the driver must not begin transactions of its own
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=NORMAL")  # safe against crashes of processes; power loss may cost the newest
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
