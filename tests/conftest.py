"""Options of every tier, one seed for all random choices, and a pause-free garbage collector."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.report import Recorder

pytest_plugins = ["pytester"]

SEED = 20261127

settings.register_profile("fixed", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None, print_blob=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", action="store_true", help="kill the service 20 times instead of once; random seeds")
    parser.addoption(
        "--cluster", action="store_true", help="all that is asked of several nodes, not only the short part"
    )
    parser.addoption(
        "--chaos-seed", type=int, help=f"what decides random work; {SEED} if left out, random with --chaos"
    )
    parser.addoption("--record", type=Path, help="append each test's outcome and seconds to this file, as JSON lines")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("random" if config.getoption("chaos") else "fixed")
    if config.getoption("record"):
        config.pluginmanager.register(Recorder(config.getoption("record")))


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries complain of leaks at the end


def pytest_collection_finish() -> None:
    rest_garbage_collector()


@pytest.fixture(scope="module", autouse=True)
def _rested_garbage_collector() -> Iterator[None]:
    yield
    rest_garbage_collector()


def rest_garbage_collector() -> None:
    """Exempt the millions of objects that imports leave from collections, which else stop the process for seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """What decides all random work, so that a failure can be repeated."""
    chosen: int | None = request.config.getoption("chaos_seed")
    if chosen is not None:
        return chosen
    return random.randrange(2**32) if request.config.getoption("chaos") else SEED
