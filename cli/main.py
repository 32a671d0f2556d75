"""The command line: `ai-pipeline serve | generate | dashboard | jobs | events | keys | plan | doctor`."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ai_pipeline_client import Client, Parameters
from cli import remote
from cli.app_log import follow
from cli.config import SERVE_CONFIG, LaunchConfig, LaunchOptions, load_config
from cli.console import console, report_errors
from cli.dashboard import UI_PORT, check_port, end_with, running_dashboard
from cli.doctor import examine
from cli.errors import LaunchError
from cli.exposure import API_KEY, check_exposure, warnings
from cli.keys import keys_app
from cli.launcher import Service, join, launch
from cli.options import DataDir, ServeConfig, destination
from cli.plan import plan
from cli.ports import free_port
from cli.proxies import ProxyKind
from graphs.http.schemas.generation import GenerateBody
from pipeline.records import Scheduler

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 1 failed, 2 wrong arguments, 3 not found, 4 refused, 5 unreachable, 130 interrupted.",
    pretty_exceptions_show_locals=False,
)
app.add_typer(remote.jobs, name="jobs")
app.command()(remote.events)
app.add_typer(keys_app, name="keys")
app.command()(plan)

WATCH_S = 1.0  # interval of checking that Ray is alive

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


@app.command()
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
        if address is not None:
            with _status() as progress:
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


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What the image shows.")],
    negative_prompt: Annotated[str, typer.Option(help="What it must not show.")] = "",
    seed: Annotated[int | None, typer.Option(help="Same request, same seed, same image; random if left out.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance scale.")] = None,
    width: Annotated[int | None, typer.Option(help="In pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="In pixels.")] = None,
    scheduler: Annotated[Scheduler | None, typer.Option(help="Noise schedule.")] = None,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Bit-identical under any load.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out"),
    server: Annotated[
        str | None, typer.Option(envvar="PIPELINE_SERVER", help="URL of a running service; starts one if left out.")
    ] = None,
    api_key: remote.ApiKey = "",
    n: Annotated[int, typer.Option(help="Number of images, with consecutive seeds; with --server.")] = 1,
    preview: Annotated[Path | None, typer.Option(help="File for the preview of each step; with --server.")] = None,
    host: Host = None,  # noqa: ARG001  # accepted, so that the options of `serve` work here as well
    port: Annotated[int | None, typer.Option(help="Port of the temporary service; a free one if left out.")] = None,
    ui_port: UiPort = UI_PORT,  # noqa: ARG001
    no_ui: NoUi = False,  # noqa: ARG001
    profile: Profile = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data folder in which the image is stored as well.")] = None,
    address: Address = None,
) -> None:
    """Generate an image, analyze it, write the results to a folder and exit; with --server, on a running service."""
    parameters = Parameters(
        negative_prompt=negative_prompt,
        seed=seed,
        steps=steps,
        guidance=guidance,
        width=width,
        height=height,
        scheduler=scheduler,
        deterministic=deterministic,
    )
    if server is not None:
        with remote.connected(server, api_key) as client:
            remote.generate_remotely(client, prompt, n=n, out=out, preview=preview, **parameters)
        return
    with report_errors(), tempfile.TemporaryDirectory() as discarded:
        if n != 1 or preview is not None:
            raise ValueError("--n and --preview require --server, the URL of a running service.")
        options = LaunchOptions(
            host="127.0.0.1",  # not for other clients
            port=port or free_port(),
            profile=profile,
            data_dir=data_dir.absolute() if data_dir else Path(discarded),
        )
        config = load_config(options)
        body = GenerateBody.model_validate({"prompt": prompt, **parameters})
        body.resolve(config.settings.load_profile().diffusion)  # validate before the launch
        with (
            _joined(address, config) if address else launched(config) as service,
            Client(service.url, api_key=api_key or None) as client,
        ):
            if address is None and (unready := service.unready_models()):
                raise LaunchError("\n".join(f"The {name} model is not ready: {why}" for name, why in unready.items()))
            remote.generate_one(client, prompt, out, **parameters)


@app.command()
def dashboard(
    server: Annotated[str, typer.Option(envvar="PIPELINE_SERVER", help="The service's URL.")] = "http://127.0.0.1:8000",
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


@app.command()
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


@contextmanager
def launched(config: LaunchConfig) -> Iterator[Service]:
    _interrupt_on_signals()
    with ExitStack() as stack:
        with _status() as progress:
            service = stack.enter_context(launch(config, progress))
        _interrupt_on_signals()  # ray.init has installed its own handlers
        yield service


@contextmanager
def _joined(address: str, config: LaunchConfig) -> Iterator[Service]:
    with _status() as progress:
        service = join(address, config, progress)
    yield service


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """Show the current status and the elapsed time while the block runs."""
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), transient=True) as progress:
        task = progress.add_task("Starting", total=None)
        yield lambda message: progress.update(task, description=message)


def _interrupt_on_signals() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)


def _announce(service: Service) -> None:
    console.print(f"[bold green]Ready[/] at {service.url}  (API: {service.url}/docs)")
    for model, reason in service.unready_models().items():
        console.print(f"[red]The {model} model is not ready:[/] {escape(reason)}", soft_wrap=True)
    console.print(f"Metrics at {service.metrics_url}, log in {service.app_log}. Ctrl-C ends it.", soft_wrap=True)


if __name__ == "__main__":
    app()
