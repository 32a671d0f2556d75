"""How often, and what decides the work."""

from __future__ import annotations

import random

import pytest

ROUNDS = 1
LONG_ROUNDS = 20


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    return LONG_ROUNDS if request.config.getoption("chaos") else ROUNDS


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    chosen: int | None = request.config.getoption("chaos_seed")
    return random.randrange(2**32) if chosen is None else chosen
