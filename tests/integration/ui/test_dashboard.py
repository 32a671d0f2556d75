"""The dashboard's handlers against the real HTTP application, as Gradio calls them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
import pytest
from PIL import Image as Picture

from ai_pipeline_client import AsyncClient
from graphs.generation import job_worker as job_runner
from graphs.http.app import build_http_app
from graphs.http.auth import AccessControl
from pipeline.jobs import MAX_ATTEMPTS
from pipeline.store import PageQuery
from testing.harness import Bench
from testing.waiting import until
from tests.integration.clients import AT_ONCE, InStep, served
from ui.dashboard import Dashboard

pytestmark = pytest.mark.anyio

VISIT = {"session": "s", "image_id": None}


@dataclass
class Page:
    """The request of a page, as Gradio passes it."""

    session_hash: str = "page"


@pytest.fixture
async def dashboard(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Dashboard]:
    monkeypatch.setattr(job_runner, "POLL_S", 0.05)
    async with (
        served(build_http_app(bench.services)) as url,
        AsyncClient(url, retries=AT_ONCE) as client,
    ):
        yield Dashboard(client)


def generating(dashboard: Dashboard, prompt: str = "pear", seed: str = "3", steps: int = 3) -> AsyncIterator[Any]:
    return dashboard.generate(VISIT, prompt, "", seed, steps, 3.0, 64, 64, "ddim", Page())


async def test_generate_shows_each_step_and_selects_the_image(dashboard, bench):
    seen: list[Picture.Image] = []
    bench.workers.gate = InStep(bench, seen)
    bars = []
    visit: Any = None
    async for image, bar, selected in generating(dashboard):
        bars.append(bar)
        visit = selected
        if isinstance(image, Picture.Image):
            seen.append(image)

    assert [f"Step {step} of 3" in bar for step, bar in enumerate(bars)] == [False, True, True, True, False]
    assert "3 steps in" in bars[-1]
    assert [image.size for image in seen] == [(64, 64)] * 4
    shown, warnings, caption, again = await dashboard.show(visit)
    assert shown == seen[-1]
    assert warnings == ""
    assert "seed 3" in caption
    assert again.visible
    assert (await dashboard.reuse_parameters(visit))[:4] == ["pear", "", 3, 3]
    strip, listed = await dashboard.list_images()
    assert listed == [visit["image_id"]]
    assert strip[0][1] == "pear"


async def test_every_result_of_an_image_is_shown(dashboard):
    *_, (_, _, visit) = [shown async for shown in generating(dashboard)]
    scores, _, warnings = await dashboard.analyze(visit)
    assert len(scores) == 5
    assert warnings == ""
    assert list(scores) == ["class", "confidence, %"]  # as the plot names them
    table, rows = await dashboard.segment(visit)
    assert list(table["class"]) == ["apple", "plate"]
    assert [row["region_id"] for row in rows] == [0, 1]
    lit, overlay, spotlights = await dashboard.visualize(visit)
    assert isinstance(lit, gr.AnnotatedImage)
    assert overlay.size == (64, 64)
    assert [caption for _, caption in spotlights] == ["ID: 0 (apple)", "ID: 1 (plate)"]
    _, matches = await dashboard.probe(visit, "metal")
    assert list(matches["what"]) == ["whole image", "ID: 0 (apple)", "ID: 1 (plate)"]


async def test_warnings_are_shown_below_the_image(dashboard, bench):
    bench.workers.unknown = 0.9
    *_, (_, _, visit) = [shown async for shown in generating(dashboard, prompt="a <b>dog</b>")]
    _, early_warnings, _, _ = await dashboard.show(visit)
    _, _, late_warnings = await dashboard.analyze(visit)
    for warnings in (early_warnings, late_warnings):
        assert "&quot;dog&quot;" in warnings
        assert "<b>" not in warnings
    assert "90% unknown" in late_warnings


@pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")  # raised by Gradio outside of an event
async def test_the_first_visit_sets_the_controls_from_the_profile(dashboard):
    visit, status, steps, _, width, _, scheduler = await dashboard.on_load({"session": None, "image_id": "gone"})
    assert visit["session"]
    assert "online" in status
    assert (steps.value, width.step, scheduler.value) == (15, 32, "ddim")


async def test_stop_cancels_the_job(dashboard, bench):
    bench.workers.gate.clear()
    shown = generating(dashboard)
    await anext(shown)
    last = asyncio.create_task(anext(shown))
    await until(lambda: bench.workers.calls["generate"] == 1)
    await dashboard.stop(Page())
    assert "Stopped" in (await last)[1]
    assert [item async for item in shown] == []
    (job,) = bench.store.jobs.list("public", PageQuery(limit=9))
    assert job.state == "cancelled"


@pytest.mark.parametrize(
    ("prompt", "seed", "message"), [("", "1", "send a few words"), ("pear", "x", "'x' is no whole number")]
)
async def test_an_invalid_request_raises_with_what_to_do(dashboard, prompt, seed, message):
    with pytest.raises(gr.Error, match=message):
        [shown async for shown in generating(dashboard, prompt, seed)]


async def test_a_failed_generation_raises_with_its_request_id(dashboard, bench):
    bench.workers.deaths["generate"] = MAX_ATTEMPTS
    with pytest.raises(gr.Error, match=r"was lost again and again.* Request [0-9a-f-]{36}\."):
        [shown async for shown in generating(dashboard)]


async def test_the_dashboard_authenticates_with_its_api_key(bench):
    _, token = bench.store.keys.create("ann")
    async with served(build_http_app(bench.services, AccessControl(bench.store.keys))) as url:
        async with AsyncClient(url) as anonymous:
            with pytest.raises(gr.Error) as rejected:
                await Dashboard(anonymous).list_images()
            assert rejected.value.title == "Unauthorized"
        async with AsyncClient(url, api_key=token) as client:
            assert await Dashboard(client).list_images() == ([], [])
