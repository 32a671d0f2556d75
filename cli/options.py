"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None, typer.Option(envvar="PIPELINE_DATA_DIR", help="Folder of images, sessions and app.log.")
]
ServeConfig = Annotated[
    Path, typer.Option(envvar="PIPELINE_SERVE_CONFIG", help="Replicas, autoscaling and GPU fractions.")
]


def destination(traces: str) -> str:
    """Return the destination of traces with an absolute path: processes that export them run in other folders."""
    kind, _, path = traces.partition(":")
    return f"file:{Path(path).expanduser().absolute()}" if kind == "file" and path else traces
