"""Layout of the dashboard's page, and the wiring of its events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from ai_pipeline_client import AsyncClient
from ui import views
from ui.dashboard import Dashboard

FILES_S = (600, 3600)  # interval of deleting Gradio's copies of pictures, and their maximum age
HEIGHT = 440  # pixels of a large picture
PLOT_HEIGHT = 300
RED_APPLE = "red apple in white plate"
SCHEDULERS = ["pndm", "ddim", "euler", "euler_a", "dpmpp_2m", "lcm", "unipc"]

shown = partial(dict[str, Any], api_visibility="private", show_progress="minimal")  # an event with a progress indicator
silent = partial(shown, show_progress="hidden")


@dataclass(frozen=True, kw_only=True)
class GenerationPanel:
    """Components of the left side: the controls of a generation, and its image."""

    controls: list[Any]  # in the order of dashboard.PARAMETERS
    make: Any
    stop: Any
    upload: Any
    bar: Any
    picture: Any
    warnings: Any
    made_from: Any
    again: Any


@dataclass(frozen=True, kw_only=True)
class AnalysisPanel:
    """Components of the right side: the analysis of the image; each list is filled by one handler."""

    pictures: list[Any]
    classes: list[Any]
    text: Any
    ask: Any
    matches: list[Any]
    segments: list[Any]


def build_page(client: AsyncClient) -> Any:
    """Lay out the page and wire its events."""
    with gr.Blocks(title="ai-pipeline", fill_width=True, delete_cache=FILES_S, analytics_enabled=False) as page:
        visit = gr.BrowserState({"session": None, "image_id": None}, storage_key="ai-pipeline", secret="visit")
        listed = gr.State([])
        title = gr.HTML(padding=False)
        with gr.Row():
            with gr.Column(scale=5, min_width=360):
                making = _lay_out_making()
            with gr.Column(scale=6, min_width=420), gr.Tabs():
                knowing = _lay_out_knowing()
        gr.HTML("<h2>History</h2>", padding=False)
        strip = gr.Gallery(
            show_label=False, height=150, allow_preview=False, object_fit="cover", elem_id="history", buttons=[]
        )
        _wire(Dashboard(client), page, visit, listed, title, making, knowing, strip)
    return page


def _lay_out_making() -> GenerationPanel:
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
    return GenerationPanel(
        controls=[prompt, negative_prompt, seed, steps, guidance, width, height, scheduler],
        make=make,
        stop=stop,
        upload=upload,
        bar=gr.HTML(views.progress("Ready", 0), padding=False),
        picture=gr.Image(
            label="Image", interactive=False, height=HEIGHT, elem_id="picture", buttons=["download", "fullscreen"]
        ),
        warnings=gr.HTML(padding=False, elem_id="warnings"),
        made_from=gr.HTML(padding=False),
        again=gr.Button("Use these parameters again", size="sm", visible=False),
    )


def _lay_out_knowing() -> AnalysisPanel:
    plot = partial(gr.BarPlot, x_title=" ", y_lim=[0, 100], height=PLOT_HEIGHT)
    with gr.Tab("Visualize"):
        regions = gr.AnnotatedImage(label="Regions under the pointer", elem_id="regions", height=HEIGHT)
        with gr.Accordion("All outlines", open=False):
            overlay = gr.Image(show_label=False, interactive=False, height=HEIGHT, elem_id="overlay")
        spotlights = gr.Gallery(
            label="Spotlights", columns=4, height="auto", object_fit="contain", elem_id="spotlights"
        )
    with gr.Tab("Analyze"):
        class_plot = plot(x="class", y="confidence, %", sort="-y")
        class_table = gr.Dataframe(label="What the image shows", elem_id="classes")
    with gr.Tab("Probe"):
        with gr.Row():
            text = gr.Textbox(show_label=False, placeholder="A text to compare with the image, such as: metal", scale=4)
            ask = gr.Button("Probe", variant="primary", scale=1)
        match_plot = plot(x="what", y="match, %", x_label_angle=-30)
        match_table = gr.Dataframe(label="How well it matches", elem_id="matches")
    with gr.Tab("Segment data"):
        segment_table = gr.Dataframe(label="Regions", elem_id="segments")
        with gr.Accordion("JSON", open=False):
            segment_json = gr.JSON(show_label=False)
    return AnalysisPanel(
        pictures=[regions, overlay, spotlights],
        classes=[class_plot, class_table],
        text=text,
        ask=ask,
        matches=[match_plot, match_table],
        segments=[segment_table, segment_json],
    )


def _wire(
    dashboard: Dashboard,
    page: Any,
    visit: Any,
    listed: Any,
    title: Any,
    making: GenerationPanel,
    knowing: AnalysisPanel,
    strip: Any,
) -> None:
    prompt, _, _, steps, guidance, width, height, scheduler = making.controls

    def understand(after: Callable[..., Any]) -> None:
        """Fill all components for the current image."""
        after(dashboard.show, visit, [making.picture, making.warnings, making.made_from, making.again], **silent())
        after(dashboard.visualize, visit, knowing.pictures, **shown())
        after(dashboard.analyze, visit, [*knowing.classes, making.warnings], **shown())
        after(dashboard.segment, visit, knowing.segments, **shown())
        after(dashboard.forget_probe, None, knowing.matches, **silent())

    arriving = page.load(dashboard.on_load, visit, [visit, title, steps, guidance, width, height, scheduler], **shown())
    generating = gr.on(
        [making.make.click, prompt.submit],
        dashboard.generate,
        [visit, *making.controls],
        [making.picture, making.bar, visit],
        **silent(),
    )
    uploading = making.upload.upload(dashboard.upload, [visit, making.upload], visit, **shown())
    for done in (arriving, generating, uploading):
        understand(done.success)
        done.success(dashboard.list_images, None, [strip, listed], **silent())
    choosing = strip.select(dashboard.on_select, [visit, listed], visit, **silent())
    understand(choosing.success)
    making.stop.click(dashboard.stop, **silent())
    generating.failure(lambda: views.progress("Not made", 0), None, making.bar, **silent())
    making.again.click(dashboard.reuse_parameters, visit, making.controls, **silent())
    gr.on([knowing.ask.click, knowing.text.submit], dashboard.probe, [visit, knowing.text], knowing.matches, **shown())
