"""One real service for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service_process import RunningService, serving


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with serving(tmp_path_factory.mktemp("service")) as running:
        yield running
