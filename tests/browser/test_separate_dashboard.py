"""The dashboard as run by `ai-pipeline dashboard`, apart from its service: with an API key, and over a restart."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from graphs.http import auth
from graphs.http.app import build_http_app
from graphs.http.auth import AccessControl
from pipeline.api_keys import ApiKey
from pipeline.store import PageQuery
from testing.harness import Bench, make_bench, working
from testing.ports import quiet_port
from testing.service_process import GONE_WITHIN_S, ROOT, wait_until
from testing.waiting import PATIENCE_S
from tests.browser.conftest import PATIENCE_MS, VIEW
from tests.integration.clients import served

OWNER = "ann"


class Service:
    """The HTTP application on fake workers, which can be restarted on the same port and data folder.

    Args:
        folder: its data folder.
    """

    def __init__(self, folder: Path) -> None:
        self.port = quiet_port()
        self.bench: Bench
        self._folder = folder
        self._thread: threading.Thread
        self._stop: tuple[asyncio.AbstractEventLoop, asyncio.Event]

    def start(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)))
        self._thread.start()
        assert ready.wait(GONE_WITHIN_S)

    def stop(self) -> None:
        loop, event = self._stop
        loop.call_soon_threadsafe(event.set)
        self._thread.join(GONE_WITHIN_S)
        assert not self._thread.is_alive()

    async def _serve(self, ready: threading.Event) -> None:
        self.bench = make_bench(self._folder)
        self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = build_http_app(self.bench.services, AccessControl(self.bench.store.keys))
        async with working(self.bench), served(app, self.port):
            ready.set()
            await self._stop[1].wait()
        self.bench.store.log.engine.dispose()


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(auth, "KNOWN_FOR_S", 0)  # a revoked key is refused immediately
    service = Service(tmp_path / "data")
    service.start()
    yield service
    service.stop()


@pytest.fixture
def key(service: Service) -> tuple[ApiKey, str]:
    return service.bench.store.keys.create(OWNER)


@pytest.fixture
def page(service: Service, key: tuple[ApiKey, str], browser: Browser, tmp_path: Path) -> Iterator[Page]:
    with dashboard(service, key[1], tmp_path / "dashboard.log") as url, browser.new_context(viewport=VIEW) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(url)
        page.get_by_text("online").wait_for()
        yield page


@contextmanager
def dashboard(service: Service, token: str, log: Path) -> Iterator[str]:
    """Run the command in its own process; yield the page's URL."""
    port = quiet_port()
    server = f"http://127.0.0.1:{service.port}"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "dashboard", "--server", server, "--ui-port", str(port)],
            cwd=ROOT,
            env=os.environ | {"PIPELINE_API_KEY": token},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(url) or process.poll() is not None, problem=log.read_text)
        assert process.poll() is None, log.read_text()
        yield url
    finally:
        process.terminate()
        process.wait(GONE_WITHIN_S)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=PATIENCE_S).is_success
    except httpx.TransportError:
        return False


def generate(page: Page, prompt: str) -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Generate").click()


def test_all_visitors_act_as_the_owner_of_its_key_until_it_is_revoked(
    service: Service, key: tuple[ApiKey, str], page: Page
):
    generate(page, "red apple")
    expect(page.locator(".facts b")).to_have_text("red apple")
    assert len(service.bench.store.history(OWNER, PageQuery(limit=5))) == 1

    service.bench.store.keys.revoke(key[0].key_id)
    generate(page, "green pear")

    expect(page.get_by_test_id("toast-body")).to_contain_text("API key")
    expect(page.locator(".progress")).to_contain_text("Not made")
    expect(page.locator(".facts b")).to_have_text("red apple")


def test_a_page_stays_usable_after_its_service_restarts(service: Service, page: Page):
    generate(page, "red apple")
    expect(page.locator(".facts b")).to_have_text("red apple")
    service.stop()
    generate(page, "green pear")
    expect(page.get_by_test_id("toast-body")).to_contain_text("Is the service running?")
    expect(page.locator(".progress")).to_contain_text("Not made")

    service.start()
    generate(page, "blue cup")

    expect(page.locator(".facts b")).to_have_text("blue cup")
    expect(page.locator("#history .thumbnail-item")).to_have_count(2)
    page.reload()
    expect(page.locator(".facts b")).to_have_text("blue cup")
