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
from testing.harness import Bench
from testing.waiting import until
from tests.graph.clients import AT_ONCE, InStep, served
from ui.dashboard import Dashboard

pytestmark = pytest.mark.anyio

VISIT = {"session": "s", "image_id": None}


@dataclass
class Page:
    """What Gradio says of the page that asks."""

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


async def test_an_image_takes_shape_step_by_step_and_is_what_one_looks_at_then(dashboard, bench):
    seen: list[Picture.Image] = []
    bench.workers.gate = InStep(bench, seen)
    bars = []
    visit: Any = None
    async for picture, bar, looks_at in generating(dashboard):
        bars.append(bar)
        visit = looks_at
        if isinstance(picture, Picture.Image):
            seen.append(picture)

    assert [f"Step {step} of 3" in bar for step, bar in enumerate(bars)] == [False, True, True, True, False]
    assert "3 steps in" in bars[-1]
    assert [picture.size for picture in seen] == [(64, 64)] * 4
    shown, warnings, said, again = await dashboard.show(visit)
    assert shown == seen[-1]
    assert warnings == ""
    assert "seed 3" in said
    assert again.visible
    assert (await dashboard.use_again(visit))[:4] == ["pear", "", 3, 3]
    strip, listed = await dashboard.list_images()
    assert listed == [visit["image_id"]]
    assert strip[0][1] == "pear"


async def test_everything_about_an_image_is_filled_in(dashboard):
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


async def test_what_the_models_do_not_know_is_said_under_the_image(dashboard, bench):
    bench.workers.unknown = 0.9
    *_, (_, _, visit) = [shown async for shown in generating(dashboard, prompt="a <b>dog</b>")]
    _, said_at_once, _, _ = await dashboard.show(visit)
    _, _, said_later = await dashboard.analyze(visit)
    for said in (said_at_once, said_later):
        assert "&quot;dog&quot;" in said
        assert "<b>" not in said
    assert "90% unknown" in said_later


@pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")  # Gradio's, where no event is going on
async def test_a_browser_s_first_visit_fits_the_controls_to_the_profile(dashboard):
    visit, status, steps, _, width, _, scheduler = await dashboard.arrive({"session": None, "image_id": "gone"})
    assert visit["session"]
    assert "online" in status
    assert (steps.value, width.step, scheduler.value) == (15, 32, "ddim")


async def test_what_is_stopped_is_cancelled(dashboard, bench):
    bench.workers.gate.clear()
    shown = generating(dashboard)
    await anext(shown)
    last = asyncio.create_task(anext(shown))
    await until(lambda: bench.workers.calls["generate"] == 1)
    await dashboard.stop(Page())
    assert "Stopped" in (await last)[1]
    assert [item async for item in shown] == []
    (job,) = bench.store.jobs.list("public", limit=9)
    assert job.state == "cancelled"


@pytest.mark.parametrize(
    ("prompt", "seed", "said"), [("", "1", "send a few words"), ("pear", "x", "'x' is no whole number")]
)
async def test_a_refusal_tells_what_to_do(dashboard, prompt, seed, said):
    with pytest.raises(gr.Error, match=said):
        [shown async for shown in generating(dashboard, prompt, seed)]


async def test_a_failure_on_the_way_is_told_with_its_request(dashboard, bench):
    bench.workers.deaths["generate"] = MAX_ATTEMPTS
    with pytest.raises(gr.Error, match=r"was lost again and again.* Request [0-9a-f-]{36}\."):
        [shown async for shown in generating(dashboard)]


async def test_a_service_that_wants_a_key_gets_the_dashboard_s(bench):
    _, token = bench.store.keys.create("ann")
    async with served(build_http_app(bench.services, AccessControl(bench.store.keys))) as url:
        async with AsyncClient(url) as stranger:
            with pytest.raises(gr.Error) as refused:
                await Dashboard(stranger).list_images()
            assert refused.value.title == "Unauthorized"
        async with AsyncClient(url, api_key=token) as client:
            assert await Dashboard(client).list_images() == ([], [])
