"""The committed miniature models, and empty databases."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pipeline.settings import PROJECT_ROOT
from pipeline.store import open_database
from testing.servers import S3, postgres, s3


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Limit torch to one thread: small models gain nothing from more, and parallel test runs share cores."""
    from pipeline.engines.device import use_cpu  # imports torch

    use_cpu(1)


@pytest.fixture(scope="session")
def mini_models() -> Path:
    """The folder with `diffusion`, `clip` and `sam2`."""
    return PROJECT_ROOT / "models" / "mini"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    with postgres() as server:
        yield server.url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    with s3() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'truth.sqlite'}"
    server = request.getfixturevalue("postgres_server")
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("postgresql:", "postgresql+psycopg:").removesuffix("postgres") + name


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self, _connection: object) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(database_url: str) -> Iterator:
    engine = open_database(database_url)
    yield engine
    engine.dispose()
