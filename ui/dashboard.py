"""Event handlers of the dashboard's page: each calls the service and returns values for components.

A browser stores its session's id and the image it shows, so that a reload changes nothing and browsers are isolated.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import gradio as gr
from PIL.Image import Image

from ai_pipeline_client import AsyncClient, AsyncImage, InvalidRequest, NotFound, PipelineError, Progress
from ui import views

HISTORY = 24  # images in the strip
THUMBNAILS = 500  # cached for all users: 0.2 MB each
ERROR_S = 30.0
PARAMETERS = ("prompt", "negative_prompt", "seed", "steps", "guidance", "width", "height", "scheduler")

Visit = dict[str, str | None]  # stored in the browser: its session, and the image it shows


@asynccontextmanager
async def report_errors() -> AsyncIterator[None]:
    """Show the service's errors, with the id of the request in its log."""
    try:
        yield
    except PipelineError as error:
        request = f" Request {error.request_id}." if error.request_id else ""
        raise gr.Error(f"{error.detail}{request}", title=error.title, duration=ERROR_S, print_exception=False) from None


class Dashboard:
    """Event handlers, in the order of the page's parts: each takes and returns values of components."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._generating: dict[str, asyncio.Task[AsyncImage]] = {}  # by the session of the page that waits for it
        self._thumbnails: dict[str, Image] = {}  # by image id, oldest first

    async def on_load(self, visit: Visit) -> tuple[Visit, Any, Any, Any, Any, Any, Any]:
        """Initialize a page: create the browser's session, and set the controls to the service's profile."""
        visit = visit if visit.get("session") else {"session": secrets.token_urlsafe(18), "image_id": None}
        async with report_errors():
            about = await self._client.about()
            try:
                if visit["image_id"]:
                    await self._client.images.get(visit["image_id"])
            except NotFound:  # deleted since, or a service with another data folder
                visit = visit | {"image_id": None}
        defaults, limits = about.defaults, about.limits
        side: dict[str, Any] = {"minimum": limits.min_side, "maximum": limits.max_side, "step": limits.side_multiple}
        return (
            visit,
            views.status(about),
            gr.Slider(value=defaults.steps, maximum=limits.max_steps),
            gr.Slider(value=defaults.guidance, maximum=limits.max_guidance),
            gr.Slider(value=defaults.width, **side),
            gr.Slider(value=defaults.height, **side),
            gr.Dropdown(value=defaults.scheduler),
        )

    async def generate(
        self,
        visit: Visit,
        prompt: str,
        negative_prompt: str,
        seed: str,
        steps: int,
        guidance: float,
        width: int,
        height: int,
        scheduler: str,
        page: gr.Request,
    ) -> AsyncGenerator[tuple[Any, Any, Any], None]:
        """Generate an image, and show each preview meanwhile."""
        steps_done: asyncio.Queue[Progress | None] = asyncio.Queue()

        async def make() -> AsyncImage:
            return await self._client.in_session(str(visit["session"])).images.generate(
                prompt,
                negative_prompt=negative_prompt,
                seed=_seed(seed),
                steps=steps,
                guidance=guidance,
                width=width,
                height=height,
                scheduler=scheduler,
                on_progress=steps_done.put_nowait,
            )

        started = time.monotonic()
        yield gr.skip(), views.progress("Waiting for a turn", 0), gr.skip()
        # In its own task, so that `stop` can cancel it at any point; after Gradio's own cancellation, a page treats the
        # next click as part of the cancelled event.
        task = self._generating[str(page.session_hash)] = asyncio.create_task(make())
        task.add_done_callback(lambda _: steps_done.put_nowait(None))
        try:
            while (done := await steps_done.get()) is not None:
                if not done.step:
                    continue  # accepted: it is queued
                bar = views.progress(f"Step {done.step} of {done.num_steps}", done.step / done.num_steps)
                shown = gr.skip() if done.preview is None else views.preview(done.preview, width, height)
                yield shown, bar, gr.skip()
            if task.cancelled():
                yield gr.skip(), views.progress("Stopped", 0), gr.skip()
                return
            async with report_errors():
                image = task.result()
                made = views.picture(await image.bytes())
            took = (
                f"{image.parameters.steps if image.parameters else steps} steps in {time.monotonic() - started:.1f} s"
            )
            yield made, views.progress(took, 1), visit | {"image_id": image.image_id}
        finally:
            task.cancel()
            self._generating.pop(str(page.session_hash), None)

    async def stop(self, page: gr.Request) -> None:
        """Cancel the generation of this page."""
        if task := self._generating.get(str(page.session_hash)):
            task.cancel()

    async def upload(self, visit: Visit, data: bytes) -> Visit:
        """Upload a picture from the browser's machine."""
        async with report_errors():
            uploaded = await self._client.in_session(str(visit["session"])).images.upload(data)
        return visit | {"image_id": uploaded.image_id}

    async def show(self, visit: Visit) -> tuple[Any, str, str, Any]:
        """Show the browser's current image, its warnings, and how it was made."""
        if not visit["image_id"]:
            return None, "", "", gr.Button(visible=False)
        async with report_errors():
            image = await self._client.images.get(visit["image_id"])
            png = await image.bytes()
        again = gr.Button(visible=image.request is not None)
        return views.picture(png), views.warnings(image.warnings), views.facts(image), again

    async def analyze(self, visit: Visit) -> tuple[Any, Any, Any]:
        """Fill the classes, and their warnings."""
        if not visit["image_id"]:
            return None, None, ""
        async with report_errors():
            labels = await (await self._client.images.get(visit["image_id"])).labels()
        scores = views.classes(labels)
        return scores, scores, views.warnings(labels.warnings)

    async def probe(self, visit: Visit, text: str) -> tuple[Any, Any]:
        """Fill the matches of a text."""
        if not visit["image_id"]:
            raise gr.Error("Make or upload one first.", title="No image yet", print_exception=False)
        async with report_errors():
            image = await self._client.images.get(visit["image_id"])
            matches = views.matches(await image.probe([text]))
        return gr.BarPlot(matches, sort=list(matches["what"])), matches

    async def segment(self, visit: Visit) -> tuple[Any, Any]:
        """Fill the table of regions."""
        if not visit["image_id"]:
            return None, None
        async with report_errors():
            regions = await (await self._client.images.get(visit["image_id"])).regions()
        return views.regions(regions), [
            {name: value for name, value in asdict(region).items() if value is not None} for region in regions
        ]

    async def visualize(self, visit: Visit) -> tuple[Any, Any, Any]:
        """Fill the pictures of regions."""
        if not visit["image_id"]:
            return None, None, None
        async with report_errors():
            image = await self._client.images.get(visit["image_id"])
            regions = await image.regions()
            overlay = await image.overlay()
            spotlights = [await region.spotlight() for region in regions]
            shown = views.picture(await image.bytes())
        masks = views.masks(regions)
        lit = gr.AnnotatedImage((shown, masks), color_map=views.colours([label for _, label in masks]))
        return lit, views.picture(overlay.data), views.gallery(regions, spotlights)

    async def list_images(self) -> tuple[list[Any], list[str]]:
        """Fill the history strip."""
        async with report_errors():
            images = await self._client.images.page(limit=HISTORY)
            strip = [(await self._thumbnail(image), views.caption(image)) for image in images]
        return strip, [image.image_id for image in images]

    async def on_select(self, visit: Visit, listed: list[str], chosen: gr.SelectData) -> Visit:
        """Show an image of the history."""
        return visit | {"image_id": listed[chosen.index]}

    async def reuse_parameters(self, visit: Visit) -> list[Any]:
        """Fill the controls with the image's parameters."""
        async with report_errors():
            request = (await self._client.images.get(str(visit["image_id"]))).parameters
        return [getattr(request, name) for name in PARAMETERS]

    async def forget_probe(self) -> tuple[None, None]:
        """Clear the matches of another image."""
        return None, None

    async def _thumbnail(self, image: AsyncImage) -> Image:
        if image.image_id not in self._thumbnails:
            self._thumbnails[image.image_id] = views.thumbnail(await image.bytes())
            if len(self._thumbnails) > THUMBNAILS:
                del self._thumbnails[next(iter(self._thumbnails))]  # the oldest
        return self._thumbnails[image.image_id]


def _seed(text: str) -> int | None:
    """Parse the seed's text field, which may be empty.

    Raises:
        InvalidRequest: it isn't a number.
    """
    try:
        return int(text) if text.strip() else None
    except ValueError:
        raise InvalidRequest(title="Invalid request", detail=f"The seed {text!r} is no whole number.") from None
