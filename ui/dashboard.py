"""What the dashboard's page does: each handler asks the service and returns what components show.

A browser keeps its session's id and the image it looks at, so a reload changes nothing and two browsers never meet.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import gradio as gr
from httpx_sse import ServerSentEvent
from PIL.Image import Image

from ui import views
from ui.client import FINISHED, Answer, PipelineClient, ServiceError

HISTORY = 24  # images in the strip
THUMBNAILS = 500  # kept for all visitors: 0.2 MB each
ERROR_S = 30.0
PARAMETERS = ("prompt", "negative_prompt", "seed", "steps", "guidance", "width", "height", "scheduler")

Visit = dict[str, str | None]  # what a browser remembers: its session, and the image it looks at


@asynccontextmanager
async def explained() -> AsyncIterator[None]:
    """Show what the service says when it refuses, with the id its log knows the request by."""
    try:
        yield
    except ServiceError as error:
        request = f" Request {error.request_id}." if error.request_id else ""
        raise gr.Error(f"{error.detail}{request}", title=error.title, duration=ERROR_S, print_exception=False) from None


class Dashboard:
    """What happens on the page, in the order of its parts: each handler takes and returns what components hold."""

    def __init__(self, client: PipelineClient) -> None:
        self._client = client
        self._generating: dict[str, asyncio.Task[None]] = {}  # by the page that waits for it
        self._thumbnails: dict[str, Image] = {}  # by image id, oldest first

    async def arrive(self, visit: Visit) -> tuple[Visit, Any, Any, Any, Any, Any, Any]:
        """Greet a browser: give it a session, and fit the controls to the service's profile."""
        visit = visit if visit.get("session") else {"session": secrets.token_urlsafe(18), "image_id": None}
        if visit["image_id"]:
            try:
                await self._client.image(visit["image_id"])
            except ServiceError:  # removed since, or a service with another data folder
                visit = visit | {"image_id": None}
        async with explained():
            about = await self._client.about()
        defaults, limits = about["defaults"], about["limits"]
        side = {"minimum": limits["min_side"], "maximum": limits["max_side"], "step": limits["side_multiple"]}
        return (
            visit,
            views.status(about),
            gr.Slider(value=defaults["steps"], maximum=limits["max_steps"]),
            gr.Slider(value=defaults["guidance"], maximum=limits["max_guidance"]),
            gr.Slider(value=defaults["width"], **side),
            gr.Slider(value=defaults["height"], **side),
            gr.Dropdown(value=defaults["scheduler"]),
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
        """Make an image; shows each preview on the way."""
        parameters: Answer = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "seed": seed.strip() or None,
            "steps": steps,
            "guidance": guidance,
            "width": width,
            "height": height,
            "scheduler": scheduler,
        }
        events: asyncio.Queue[ServerSentEvent | None] = asyncio.Queue()

        async def listen() -> None:
            async for event in self._client.generate(str(visit["session"]), parameters):
                events.put_nowait(event)

        started = time.monotonic()
        yield gr.skip(), views.progress("Waiting for a turn", 0), gr.skip()
        # In a task of its own, so that `stop` ends it whatever it waits for; Gradio's own cancelling leaves a page that
        # takes the next click for part of the cancelled event.
        task = self._generating[str(page.session_hash)] = asyncio.create_task(listen())
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                facts = event.json()
                if event.event == "generation.stepped":
                    step, num_steps = facts["step"], facts["num_steps"]
                    bar = views.progress(f"Step {step} of {num_steps}", step / num_steps)
                    preview = facts["preview"]
                    yield views.preview(preview, width, height) if preview else gr.skip(), bar, gr.skip()
                elif event.event == FINISHED:
                    took = f"{facts['steps']} steps in {time.monotonic() - started:.1f} s"
                    made = views.picture(facts["generated_image"])
                    yield made, views.progress(took, 1), visit | {"image_id": facts["image_id"]}
            if task.cancelled():
                yield gr.skip(), views.progress("Stopped", 0), gr.skip()
            else:
                async with explained():
                    task.result()
        finally:
            task.cancel()
            self._generating.pop(str(page.session_hash), None)

    async def stop(self, page: gr.Request) -> None:
        """Stop what this page has begun."""
        if task := self._generating.get(str(page.session_hash)):
            task.cancel()

    async def upload(self, visit: Visit, data: bytes) -> Visit:
        """Take in a picture from the browser's machine."""
        async with explained():
            uploaded = await self._client.upload(str(visit["session"]), data)
        return visit | {"image_id": uploaded["image_id"]}

    async def show(self, visit: Visit) -> tuple[Any, str, Any]:
        """Show the image a browser looks at, and how it was made."""
        if not visit["image_id"]:
            return None, "", gr.Button(visible=False)
        async with explained():
            image = await self._client.image(visit["image_id"])
            png = await self._client.content(visit["image_id"])
        return views.picture(png), views.facts(image), gr.Button(visible=image["request"] is not None)

    async def analyze(self, visit: Visit) -> tuple[Any, Any]:
        """Fill the classes."""
        if not visit["image_id"]:
            return None, None
        scores = views.classes((await self._ask("/analyze", visit))["clip_scores"])
        return scores, scores

    async def probe(self, visit: Visit, text: str) -> tuple[Any, Any]:
        """Fill the matches of a text."""
        matches = views.matches(await self._ask("/probe", visit, prompt=text))
        return gr.BarPlot(matches, sort=list(matches["what"])), matches

    async def segment(self, visit: Visit) -> tuple[Any, Any]:
        """Fill the table of regions."""
        if not visit["image_id"]:
            return None, None
        answer = await self._ask("/segment", visit)
        return views.segments(answer), answer

    async def visualize(self, visit: Visit) -> tuple[Any, Any, Any]:
        """Fill the pictures of regions."""
        if not visit["image_id"]:
            return None, None, None
        answer = await self._ask("/visualize", visit)
        async with explained():
            image = views.picture(await self._client.content(str(visit["image_id"])))
        spotlights = answer["individual_spotlights"]
        regions = views.masks(spotlights, image.size)
        lit = gr.AnnotatedImage((image, regions), color_map=views.colours([label for _, label in regions]))
        return lit, views.picture(answer["master_overlay"]), views.gallery(spotlights)

    async def list_images(self) -> tuple[list[Any], list[str]]:
        """Fill the history strip."""
        async with explained():
            images = await self._client.history(HISTORY)
            strip = [(await self._thumbnail(image["image_id"]), views.caption(image)) for image in images]
        return strip, [image["image_id"] for image in images]

    async def choose(self, visit: Visit, listed: list[str], chosen: gr.SelectData) -> Visit:
        """Look at an image of the history."""
        return visit | {"image_id": listed[chosen.index]}

    async def use_again(self, visit: Visit) -> list[Any]:
        """Fill the controls with what the image was made from."""
        async with explained():
            request = (await self._client.image(str(visit["image_id"])))["request"]
        return [request[name] for name in PARAMETERS]

    async def forget_probe(self) -> tuple[None, None]:
        """Clear what was said of another image."""
        return None, None

    async def _thumbnail(self, image_id: str) -> Image:
        if image_id not in self._thumbnails:
            self._thumbnails[image_id] = views.thumbnail(await self._client.content(image_id))
            if len(self._thumbnails) > THUMBNAILS:
                del self._thumbnails[next(iter(self._thumbnails))]  # the oldest
        return self._thumbnails[image_id]

    async def _ask(self, path: str, visit: Visit, **body: Any) -> Answer:
        async with explained():
            return await self._client.ask(path, str(visit["session"]), {"image_id": visit["image_id"], **body})
