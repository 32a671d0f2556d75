"""Programs that tests need and `scripts/setup-tests` installs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


def ensure(package: str, find: Callable[[], T | None]) -> T:
    """Return a program of a package; if it is missing, skip the test, or fail it in CI."""
    found = find()
    if found is None:
        message = f"{package} is missing: scripts/setup-tests installs it, Debian packages as root"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found
