"""`serve_config.yaml` with the command line's options, parsed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cli.proxies import ProxyKind
from pipeline.settings import PROJECT_ROOT, ServiceSettings

SERVE_CONFIG = PROJECT_ROOT / "serve_config.yaml"
HOST, PORT = "127.0.0.1", 8000


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Options of the command line; those left out, None, are taken from `serve_config.yaml`."""

    host: str | None = None
    port: int | None = None
    profile: str | None = None
    data_dir: Path | None = None
    log_format: str | None = None
    allow_private_webhooks: bool | None = None
    metrics_port: int = 0  # 0: any free one
    keys: bool | None = None  # whether a request needs an API key
    traces: str | None = None  # where spans go, as in `TraceSettings.to`
    traces_ratio: float | None = None
    ingress: ProxyKind = ProxyKind.PLAIN
    num_gpus: float | None = None  # logical GPUs of the Ray we start; None: what the machine has
    serve_config: Path = SERVE_CONFIG


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """What to serve, and where."""

    options: LaunchOptions
    serve: Mapping[str, Any]  # the whole file as Serve deploys it, options included
    settings: ServiceSettings  # of its application
    host: str
    port: int

    @property
    def requires_keys(self) -> bool:
        """Whether the service will require API keys."""
        return self.settings.keys == "required"

    def listening_on(self, host: str) -> dict[str, Any]:
        """Return `serve` with another bind address."""
        return {**self.serve, "http_options": {**self.serve["http_options"], "host": host}}


def load_config(options: LaunchOptions) -> LaunchConfig:
    """Read `serve_config.yaml` and merge the options into it.

    Raises:
        ValidationError: a setting is unknown or has a wrong value.
    """
    config: dict[str, Any] = yaml.safe_load(options.serve_config.read_text())
    http_options = {"host": HOST, "port": PORT} | config.get("http_options", {})
    config["http_options"] = http_options | _without_none(host=options.host, port=options.port)
    application = config["applications"][0]
    application["args"] = application.get("args", {}) | _without_none(
        profile=options.profile,
        data_dir=options.data_dir and str(options.data_dir),
        log_format=options.log_format,
        keys=None if options.keys is None else ("required" if options.keys else "off"),
    )
    if webhooks := _without_none(allow_private_addresses=options.allow_private_webhooks):
        application["args"]["webhooks"] = application["args"].get("webhooks", {}) | webhooks
    if traces := _without_none(to=options.traces, ratio=options.traces_ratio):
        application["args"]["traces"] = application["args"].get("traces", {}) | traces
    return LaunchConfig(
        options=options,
        serve=config,
        settings=ServiceSettings.model_validate(application["args"]),
        host=config["http_options"]["host"],
        port=config["http_options"]["port"],
    )


def _without_none(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
