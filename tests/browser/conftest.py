"""One Chromium for all of these tests, and a new browser profile for each visitor of the shared service."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from testing.debian import ensure
from testing.service_process import RunningService

VIEW = {"width": 1360, "height": 1000}  # pixels
PATIENCE_MS = 300_000  # the browser shares its cores with the models

expect.set_options(timeout=PATIENCE_MS)


@dataclass
class RunningDashboard:
    """The dashboard under test and its service."""

    url: str
    service: RunningService


@pytest.fixture(scope="package")
def dashboard(shared_service: RunningService) -> RunningDashboard:
    return RunningDashboard(shared_service.ui_url, shared_service)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    chromium = ensure("chromium", lambda: shutil.which("chromium"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visitor(browser: Browser, dashboard: RunningDashboard) -> Iterator[Callable[[], Page]]:
    """Return a function that opens the dashboard with a new browser profile."""
    contexts = []

    def visit() -> Page:
        context = browser.new_context(viewport=VIEW)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(dashboard.url)
        page.get_by_text("online").wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()


@pytest.fixture
def page(visitor: Callable[[], Page]) -> Page:
    return visitor()
