"""Options of every tier, one seed for all random choices, and a garbage collector without long pauses."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from testing.ports import quiet_port
from testing.service_process import RunningService, changed_config, serving, tracing
from tests.report import Recorder
from tests.wheel import install_wheel

pytest_plugins = ["pytester"]

SEED = 20261127

settings.register_profile("fixed", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None, print_blob=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", action="store_true", help="kill the service 20 times instead of once; random seeds")
    parser.addoption("--cluster", action="store_true", help="all tests with several nodes, not only the short ones")
    parser.addoption(
        "--chaos-seed", type=int, help=f"seed of all random choices; {SEED} if omitted, random with --chaos"
    )
    parser.addoption("--record", type=Path, help="append each test's outcome and seconds to this file, as JSON lines")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("random" if config.getoption("chaos") else "fixed")
    if config.getoption("record"):
        config.pluginmanager.register(Recorder(config.getoption("record")))


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries report leaks at the end


def pytest_collection_finish() -> None:
    rest_garbage_collector()


@pytest.fixture(scope="module", autouse=True)
def _rested_garbage_collector() -> Iterator[None]:
    yield
    rest_garbage_collector()


def rest_garbage_collector() -> None:
    """Exempt the millions of objects that imports create from collections, which would pause for seconds."""
    gc.collect()
    gc.freeze()


class SharedService:
    """A service, installed from a wheel, that is started for the first test that uses it and ended after the last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._service: RunningService | None = None

    def get(self) -> RunningService:
        if self._service is None:
            # Without reactions, engines are called only for requests of tests.
            config = changed_config(self._folder, lambda args: args["args"].update(reactions={"enabled": False}))
            options = ("--serve-config", str(config), "--allow-private-webhooks", *tracing(self._folder))
            program = [install_wheel(self._folder / "wheel")]
            service = serving(self._folder, *options, program=program, ui_port=quiet_port())
            self._service = self._stack.enter_context(service)
        return self._service

    def end(self) -> None:
        self._stack.close()


SHARED = pytest.StashKey[SharedService]()
LAST_USER = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def shared_service(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> RunningService:
    """A real service with its dashboard and traces, for tests that restore whatever they kill."""
    shared = pytestconfig.stash.setdefault(SHARED, SharedService(tmp_path_factory.mktemp("service")))
    return shared.get()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    users = [item.nodeid for item in items if "shared_service" in getattr(item, "fixturenames", ())]
    config.stash[LAST_USER] = users[-1] if users else ""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """End the shared service with its last test: later tests start their own, and there are two cores."""
    if item.nodeid == item.config.stash[LAST_USER]:
        end_shared_service(item.config)


def pytest_sessionfinish(session: pytest.Session) -> None:
    end_shared_service(session.config)


def end_shared_service(config: pytest.Config) -> None:
    if (shared := config.stash.get(SHARED, None)) is not None:
        shared.end()


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of all random choices, so that a failure can be reproduced."""
    chosen: int | None = request.config.getoption("chaos_seed")
    if chosen is not None:
        return chosen
    return random.randrange(2**32) if request.config.getoption("chaos") else SEED
