"""The service shared with other test folders."""

from __future__ import annotations

import pytest

from testing.service_process import RunningService


@pytest.fixture(scope="session")
def service(shared_service: RunningService) -> RunningService:
    return shared_service
