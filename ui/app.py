"""The dashboard's process: the theme of its page, and its server."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr

from ai_pipeline_client import AsyncClient, Retries
from ui.page import build_page

FOLDER = Path(__file__).parent
FONTS = ("ui-sans-serif", "system-ui", "sans-serif")  # none has to be downloaded
THEME = gr.themes.Default(
    primary_hue="emerald", neutral_hue="slate", font=FONTS, font_mono=("ui-monospace", "monospace")
)
CONCURRENCY = 16  # concurrent events of one kind, of all users
RETRIES = Retries(attempts=3, within_s=5.0)  # interactive: an unavailable service is reported soon


def serve(server: str, host: str, port: int, api_key: str | None = None) -> None:
    """Serve the dashboard until the process ends.

    Args:
        server: URL of the service.
        api_key: all users act as its owner, if the service requires one.
    """
    page = build_page(AsyncClient(server, api_key=api_key, retries=RETRIES))
    page.queue(default_concurrency_limit=CONCURRENCY)
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
