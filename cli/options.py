"""Options of commands that start a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.proxies import ProxyKind

DataDir = Annotated[
    Path | None, typer.Option(envvar="PIPELINE_DATA_DIR", help="Folder of images, sessions and app.log.")
]
ServeConfig = Annotated[
    Path, typer.Option(envvar="PIPELINE_SERVE_CONFIG", help="Replicas, autoscaling and GPU fractions.")
]


Host = Annotated[str | None, typer.Option(envvar="PIPELINE_HOST", help="Bind address.")]
Port = Annotated[int | None, typer.Option(envvar="PIPELINE_PORT", help="Port of the HTTP API.")]
UiPort = Annotated[int, typer.Option(envvar="PIPELINE_UI_PORT", help="Port of the dashboard.")]
NoUi = Annotated[bool, typer.Option("--no-ui", envvar="PIPELINE_NO_UI", help="Serve the API alone.")]
Profile = Annotated[str | None, typer.Option(envvar="PIPELINE_PROFILE", help="A profile in configs/, or a YAML file.")]
Address = Annotated[
    str | None, typer.Option(envvar="PIPELINE_ADDRESS", help="Deploy to this Ray cluster instead of a local Ray.")
]
LogFormat = Annotated[str | None, typer.Option(envvar="PIPELINE_LOG_FORMAT", help="text or json.")]
AllowPrivateWebhooks = Annotated[
    bool | None,
    typer.Option(
        "--allow-private-webhooks",
        envvar="PIPELINE_ALLOW_PRIVATE_WEBHOOKS",
        help="Let webhooks reach private addresses, including this machine's own.",
    ),
]
MetricsPort = Annotated[
    int, typer.Option(envvar="PIPELINE_METRICS_PORT", help="Port of Ray's metrics; 0: any free one.")
]
NumGpus = Annotated[
    float | None, typer.Option(envvar="PIPELINE_NUM_GPUS", help="Logical GPUs of the local Ray; detected if left out.")
]


Ingress = Annotated[
    ProxyKind, typer.Option(envvar="PIPELINE_INGRESS", help="Ingress proxy: plain for development, or haproxy.")
]
Keys = Annotated[
    bool | None,
    typer.Option(
        "--keys/--no-keys", envvar="PIPELINE_KEYS", help="Whether requests must authenticate with an API key."
    ),
]
Traces = Annotated[
    str | None,
    typer.Option(
        envvar="PIPELINE_TRACES", help="Where traces go: a collector's http://HOST:4318 (OTLP), file:PATH, or off."
    ),
]
TracesRatio = Annotated[
    float | None,
    typer.Option(
        envvar="PIPELINE_TRACES_RATIO",
        min=0,
        max=1,
        help="Share of the requests without a traceparent that are traced.",
    ),
]
OpenToAnyone = Annotated[
    bool,
    typer.Option(
        "--open-to-anyone", envvar="PIPELINE_OPEN_TO_ANYONE", help="Listen on the network without requiring API keys."
    ),
]


def destination(traces: str) -> str:
    """Return the destination of traces with an absolute path: processes that export them run in other folders."""
    kind, _, path = traces.partition(":")
    return f"file:{Path(path).expanduser().absolute()}" if kind == "file" and path else traces
