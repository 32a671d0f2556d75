"""What tests need of Debian, which `scripts/setup-tests` installs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


def ensure(package: str, find: Callable[[], T | None]) -> T:
    """Find what a package brings; without it a test is skipped, in CI failed."""
    found = find()
    if found is None:
        message = f"{package} is missing: scripts/setup-tests installs it as root"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found
