"""The dashboard's page: what is on it, and which call fills what.

A browser keeps its session's id and the image it looks at, so a reload changes nothing and two browsers never meet.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from httpx_sse import ServerSentEvent
from PIL.Image import Image

from ui import views
from ui.client import Answer, PipelineClient, ServiceError

HISTORY = 24  # images in the strip
THUMBNAILS = 500  # kept for all visitors: 0.2 MB each
ERROR_S = 30.0
FILES_S = (600, 3600)  # how often Gradio's copies of pictures are swept, and how old they get
FOLDER = Path(__file__).parent
FONTS = ("ui-sans-serif", "system-ui", "sans-serif")  # none of them has to be fetched
RED_APPLE = "red apple in white plate"

Visit = dict[str, str | None]  # what a browser remembers: its session, and the image it looks at
SCHEDULERS = ["pndm", "ddim", "euler", "euler_a", "dpmpp_2m", "lcm", "unipc"]

THEME = gr.themes.Default(
    primary_hue="emerald", neutral_hue="slate", font=FONTS, font_mono=("ui-monospace", "monospace")
)
quiet = partial(dict[str, Any], api_visibility="private", show_progress="minimal")


@asynccontextmanager
async def explained() -> AsyncIterator[None]:
    """Show what the service says when it refuses, with the id its log knows the request by."""
    try:
        yield
    except ServiceError as error:
        request = f" Request {error.request_id}." if error.request_id else ""
        raise gr.Error(f"{error.detail}{request}", title=error.title, duration=ERROR_S, print_exception=False) from None


class Dashboard:
    """Handlers of the page's events, in the order of its parts."""

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
                    yield views.preview(facts["preview"], width, height), bar, gr.skip()
                elif event.event == "generation.finished":
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
            del self._generating[str(page.session_hash)]

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
        names = ("prompt", "negative_prompt", "seed", "steps", "guidance", "width", "height", "scheduler")
        return [request[name] for name in names]

    async def _thumbnail(self, image_id: str) -> Image:
        if image_id not in self._thumbnails:
            self._thumbnails[image_id] = views.thumbnail(await self._client.content(image_id))
            if len(self._thumbnails) > THUMBNAILS:
                del self._thumbnails[next(iter(self._thumbnails))]  # the oldest
        return self._thumbnails[image_id]

    async def _ask(self, path: str, visit: Visit, **body: Any) -> Answer:
        async with explained():
            return await self._client.ask(path, str(visit["session"]), {"image_id": visit["image_id"], **body})


def build_page(client: PipelineClient) -> Any:
    """Lay out the page and wire it."""
    dashboard = Dashboard(client)
    with gr.Blocks(title="ai-pipeline", fill_width=True, delete_cache=FILES_S, analytics_enabled=False) as page:
        visit = gr.BrowserState({"session": None, "image_id": None}, storage_key="ai-pipeline", secret="visit")
        listed = gr.State([])
        title = gr.HTML(padding=False)
        with gr.Row():
            with gr.Column(scale=5, min_width=360):
                prompt = gr.Textbox(RED_APPLE, label="Prompt", lines=2, max_lines=4, placeholder="What the image shows")
                with gr.Row():
                    make = gr.Button("Generate", variant="primary", scale=2, min_width=80)
                    stop = gr.Button("Stop", scale=1, min_width=80)
                    upload = gr.UploadButton(
                        "Upload", file_types=[".png", ".jpg", ".jpeg", ".webp"], type="binary", scale=1, min_width=80
                    )
                with gr.Accordion("Parameters", open=False):
                    negative_prompt = gr.Textbox("", label="Negative prompt", placeholder="What the image doesn't show")
                    with gr.Row():
                        seed = gr.Textbox("", label="Seed", placeholder="random")
                        scheduler = gr.Dropdown(SCHEDULERS, label="Scheduler")
                    with gr.Row():
                        steps = gr.Slider(1, 100, step=1, label="Steps")
                        guidance = gr.Slider(0, 30, step=0.1, label="Guidance")
                    with gr.Row():
                        width = gr.Slider(64, 1024, step=32, label="Width")
                        height = gr.Slider(64, 1024, step=32, label="Height")
                bar = gr.HTML(views.progress("Ready", 0), padding=False)
                picture = gr.Image(
                    label="Image", interactive=False, height=440, elem_id="picture", buttons=["download", "fullscreen"]
                )
                made_from = gr.HTML(padding=False)
                again = gr.Button("Use these parameters again", size="sm", visible=False)
            with gr.Column(scale=6, min_width=420), gr.Tabs():
                with gr.Tab("Visualize"):
                    regions = gr.AnnotatedImage(label="Regions under the pointer", elem_id="regions", height=440)
                    with gr.Accordion("All outlines", open=False):
                        overlay = gr.Image(show_label=False, interactive=False, height=440, elem_id="overlay")
                    spotlights = gr.Gallery(
                        label="Spotlights", columns=4, height="auto", object_fit="contain", elem_id="spotlights"
                    )
                with gr.Tab("Analyze"):
                    class_plot = gr.BarPlot(
                        x="class", y="confidence, %", x_title=" ", sort="-y", y_lim=[0, 100], height=300
                    )
                    class_table = gr.Dataframe(label="What the image shows", elem_id="classes")
                with gr.Tab("Probe"):
                    with gr.Row():
                        text = gr.Textbox(
                            show_label=False, placeholder="A text to compare with the image, such as: metal", scale=4
                        )
                        ask = gr.Button("Probe", variant="primary", scale=1)
                    match_plot = gr.BarPlot(
                        x="what", y="match, %", x_title=" ", y_lim=[0, 100], height=300, x_label_angle=-30
                    )
                    match_table = gr.Dataframe(label="How well it matches", elem_id="matches")
                with gr.Tab("Segment data"):
                    segment_table = gr.Dataframe(label="Regions", elem_id="segments")
                    with gr.Accordion("JSON", open=False):
                        segment_json = gr.JSON(show_label=False)
        gr.HTML("<h2>History</h2>", padding=False, elem_id="history-title")
        strip = gr.Gallery(
            show_label=False, height=150, allow_preview=False, object_fit="cover", elem_id="history", buttons=[]
        )

        controls = [prompt, negative_prompt, seed, steps, guidance, width, height, scheduler]

        def understand(after: Callable[..., Any]) -> None:
            """Fill everything there is to know of the image one looks at."""
            after(dashboard.show, visit, [picture, made_from, again], **quiet(show_progress="hidden"))
            after(dashboard.visualize, visit, [regions, overlay, spotlights], **quiet())
            after(dashboard.analyze, visit, [class_plot, class_table], **quiet())
            after(dashboard.segment, visit, [segment_table, segment_json], **quiet())

        def remember(after: Callable[..., Any]) -> None:
            after(dashboard.list_images, None, [strip, listed], **quiet(show_progress="hidden"))

        arriving = page.load(
            dashboard.arrive, visit, [visit, title, steps, guidance, width, height, scheduler], **quiet()
        )
        generating = gr.on(
            [make.click, prompt.submit],
            dashboard.generate,
            [visit, *controls],
            [picture, bar, visit],
            **quiet(show_progress="hidden"),
        )
        uploading = upload.upload(dashboard.upload, [visit, upload], visit, **quiet())
        for done in (arriving, generating, uploading):
            understand(done.success)
            remember(done.success)
        choosing = strip.select(dashboard.choose, [visit, listed], visit, **quiet(show_progress="hidden"))
        understand(choosing.success)
        stop.click(dashboard.stop, **quiet(show_progress="hidden"))
        generating.failure(lambda: views.progress("Not made", 0), None, bar, **quiet(show_progress="hidden"))
        again.click(dashboard.use_again, visit, controls, **quiet(show_progress="hidden"))
        gr.on([ask.click, text.submit], dashboard.probe, [visit, text], [match_plot, match_table], **quiet())
    return page


def serve(server: str, host: str, port: int) -> None:
    """Serve the dashboard until the process ends.

    Args:
        server: URL of the service.
    """
    page = build_page(PipelineClient(server))
    page.queue(default_concurrency_limit=16)
    page.launch(
        server_name=host,
        server_port=port,
        theme=THEME,
        css=(FOLDER / "style.css").read_text(),
        head=f"<script>{(FOLDER / 'pointer.js').read_text()}</script>",
        footer_links=[],
        share=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        quiet=True,
        show_error=True,
    )
