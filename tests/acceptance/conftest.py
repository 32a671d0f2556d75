"""One real service for all of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service_process import RunningService, changed_config, serving, tracing


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("service")
    # Without reactions, what an engine is called for is what a test asked for.
    config = changed_config(folder, lambda application: application["args"].update(reactions={"enabled": False}))
    with serving(folder, "--serve-config", str(config), "--allow-private-webhooks", *tracing(folder)) as running:
        yield running
