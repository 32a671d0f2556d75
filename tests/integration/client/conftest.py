"""Both clients at the HTTP application over fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ai_pipeline_client import subscription
from graphs.generation import job_worker
from graphs.http.app import build_http_app
from testing.harness import Bench
from tests.integration.clients import client_at, served


@pytest.fixture(params=["Client", "AsyncClient"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def url(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setattr(job_worker, "POLL_S", 0.05)
    monkeypatch.setattr(subscription, "RESUME_PAUSE_S", 0.0)
    async with served(build_http_app(bench.services)) as url:
        yield url


@pytest.fixture
async def client(url: str, kind: str) -> AsyncIterator[Any]:
    async with client_at(url, kind) as client:
        yield client
