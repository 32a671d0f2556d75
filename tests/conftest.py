"""Options of every tier, and how tiers share two cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ALONE = ("acceptance", "browser", "chaos", "cluster")  # with a service of their own, one after the other
NICENESS = 15  # of what may run beside them


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", action="store_true", help="kill the service 20 times instead of once")
    parser.addoption(
        "--cluster", action="store_true", help="all that is asked of several nodes, not only the short part"
    )
    parser.addoption("--chaos-seed", type=int, help="what decides the work of the chaos tests; random if left out")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests with a service in one of pytest-xdist's processes: two services at once are too much."""
    for item in items:
        if is_alone(item):
            item.add_marker(pytest.mark.xdist_group("services"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """In one of several processes, compute when those with a service don't."""
    if "PYTEST_XDIST_WORKER" in os.environ and not is_alone(item):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


def is_alone(item: pytest.Item) -> bool:
    return Path(item.path).relative_to(Path(__file__).parent).parts[0] in ALONE
