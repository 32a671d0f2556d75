"""Options of every tier."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", action="store_true", help="kill the service 20 times instead of once")
    parser.addoption(
        "--cluster", action="store_true", help="all that is asked of several nodes, not only the short part"
    )
    parser.addoption("--chaos-seed", type=int, help="what decides the work of the chaos tests; random if left out")
