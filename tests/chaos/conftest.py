"""The number of rounds."""

from __future__ import annotations

import pytest

ROUNDS = 1
LONG_ROUNDS = 20


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    return LONG_ROUNDS if request.config.getoption("chaos") else ROUNDS
