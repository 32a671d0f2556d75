"""The command line: `ai-pipeline`."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from importlib.metadata import version
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cli.app_log import follow
from cli.config import SERVE_CONFIG, LaunchOptions, load_config
from cli.console import console, report_errors
from cli.dashboard import UI_PORT, check_port, end_with, running_dashboard
from cli.doctor import examine
from cli.errors import LaunchError
from cli.exposure import API_KEY, check_exposure, warnings
from cli.generate import generate
from cli.images import images, regions
from cli.jobs import events, jobs, status
from cli.keys import keys_app
from cli.launcher import Service, join
from cli.launching import launched, status_line
from cli.options import (
    Address,
    AllowPrivateWebhooks,
    DataDir,
    Host,
    Ingress,
    Keys,
    LogFormat,
    MetricsPort,
    NoUi,
    NumGpus,
    OpenToAnyone,
    Port,
    Profile,
    ServeConfig,
    Traces,
    TracesRatio,
    UiPort,
    destination,
)
from cli.plan import plan
from cli.proxies import ProxyKind
from cli.service import HERE, Server
from cli.webhooks import models, webhooks

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 1 failed, 2 wrong arguments, 3 not found, 4 refused, 5 unreachable, 130 interrupted.",
    pretty_exceptions_show_locals=False,
)
IMAGES, SERVICE, OPERATIONS = "Images", "The service", "Operations"

app.command(rich_help_panel=IMAGES)(generate)
app.add_typer(images, name="images", rich_help_panel=IMAGES)
app.command(rich_help_panel=IMAGES)(regions)
app.add_typer(jobs, name="jobs", rich_help_panel=SERVICE)
app.command(rich_help_panel=SERVICE)(events)
app.add_typer(webhooks, name="webhooks", rich_help_panel=SERVICE)
app.add_typer(models, name="models", rich_help_panel=SERVICE)
app.command(rich_help_panel=SERVICE)(status)
app.add_typer(keys_app, name="keys", rich_help_panel=OPERATIONS)
app.command(rich_help_panel=OPERATIONS)(plan)

WATCH_S = 1.0  # interval of checking that Ray is alive


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"ai-pipeline {version('ai-pipeline')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """Text to image to understanding to parts, on Ray Serve."""


@app.command(rich_help_panel=OPERATIONS)
def serve(
    host: Host = None,
    port: Port = None,
    ui_port: UiPort = UI_PORT,
    no_ui: NoUi = False,
    profile: Profile = None,
    data_dir: DataDir = None,
    address: Address = None,
    log_format: LogFormat = None,
    allow_private_webhooks: AllowPrivateWebhooks = None,
    metrics_port: MetricsPort = 0,
    num_gpus: NumGpus = None,
    serve_config: ServeConfig = SERVE_CONFIG,
    keys: Keys = None,
    open_to_anyone: OpenToAnyone = False,
    ingress: Ingress = ProxyKind.PLAIN,
    traces: Traces = None,
    traces_ratio: TracesRatio = None,
) -> None:
    """Serve the API and the dashboard until Ctrl-C. Options left out are taken from serve_config.yaml."""
    options = LaunchOptions(
        host=host,
        port=port,
        profile=profile,
        data_dir=data_dir and data_dir.absolute(),
        log_format=log_format,
        allow_private_webhooks=allow_private_webhooks,
        metrics_port=metrics_port,
        num_gpus=num_gpus,
        serve_config=serve_config,
        keys=keys,
        ingress=ingress,
        traces=traces and destination(traces),
        traces_ratio=traces_ratio,
    )
    with report_errors(interrupted=0):
        config = load_config(options)
        config.settings.load_profile()  # a mistake in it is reported before anything starts
        if address is not None:
            with status_line() as progress:
                join(address, config, progress)
            console.print(f"Deployed to {address}. `serve status` shows it, `serve shutdown` ends it.")
            return
        check_exposure(config, open_to_anyone=open_to_anyone)
        if not no_ui:
            check_port(config, ui_port)
        with launched(config) as service, ExitStack() as stack:
            _announce(service)
            for warning in warnings(config, with_dashboard=not no_ui):
                console.print(f"[yellow]{escape(warning)}", soft_wrap=True)
            if not no_ui:
                console.print(f"[bold green]Dashboard[/] at {stack.enter_context(running_dashboard(service, ui_port))}")
            threading.Thread(target=follow, args=(service.app_log,), daemon=True).start()
            while service.is_alive():
                time.sleep(WATCH_S)
            raise LaunchError("Ray has died. See its logs, and restart the service.")


@app.command(rich_help_panel=OPERATIONS)
def dashboard(
    server: Server = HERE,
    host: Annotated[str, typer.Option(envvar="PIPELINE_HOST", help="Bind address.")] = "127.0.0.1",
    ui_port: UiPort = UI_PORT,
    api_key: Annotated[
        str | None, typer.Option(envvar=API_KEY, help="API key for a service that requires one; shared by all users.")
    ] = None,
    parent: Annotated[int | None, typer.Option(hidden=True, help="Exit when this process does.")] = None,
) -> None:
    """Serve only the dashboard, for a service that runs elsewhere, until Ctrl-C."""
    if parent is not None:
        end_with(parent)
    from ui.app import serve as serve_dashboard  # gradio takes seconds to import

    serve_dashboard(server, host, ui_port, api_key)


@app.command(rich_help_panel=OPERATIONS)
def doctor(
    host: Host = None,
    port: Port = None,
    ui_port: UiPort = UI_PORT,
    profile: Profile = None,
    data_dir: DataDir = None,
    ingress: Ingress = ProxyKind.PLAIN,
) -> None:
    """Check what this machine has, what is missing, and how to fix it."""
    config = load_config(
        LaunchOptions(host=host, port=port, profile=profile, data_dir=data_dir and data_dir.absolute())
    )
    findings = examine(config.settings, host=config.host, ports=(config.port, ui_port), ingress=ingress)
    table = Table("", "what", "found", "how to fix it", box=None)
    for finding in findings:
        fix = "" if finding.ok else finding.fix
        table.add_row("[green]ok" if finding.ok else "[red]no", finding.what, escape(finding.found), escape(fix))
    console.print(table)
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


def _announce(service: Service) -> None:
    console.print(f"[bold green]Ready[/] at {service.url}  (API: {service.url}/docs)")
    for model, reason in service.unready_models().items():
        console.print(f"[red]The {model} model is not ready:[/] {escape(reason)}", soft_wrap=True)
    console.print(f"Metrics at {service.metrics_url}, log in {service.app_log}. Ctrl-C ends it.", soft_wrap=True)


if __name__ == "__main__":
    app()
