"""Start, monitor and stop Ray and Serve.

`launch` starts its own Ray and never joins a running one; `join` deploys to a running cluster on purpose. Ray is
imported inside functions, after the environment variables it reads at import are set.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import signal
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cli.config import LaunchConfig, LaunchOptions
from cli.environment import WORKER_ENVIRONMENT, child_environment, prepare_environment
from cli.errors import LaunchError
from cli.ports import free_port, port_problem
from cli.proxies import ProxyKind, prepared_proxy
from cli.targets import advertised
from pipeline.settings import RAY_NAMESPACE, ServiceSettings
from pipeline.store import open_store

TEMP_PREFIX = "aip-"  # /tmp/aip-<pid>-…: short, because a socket's path has 107 bytes at most
OBJECT_STORE_BYTES = 1 << 30
SERVICE_UNAVAILABLE = 503
READINESS_WITHIN_S = 5.0
RAY_STARTS = 4  # attempts
UP_WITHIN_S = 600.0  # a first start may have gigabytes to load
POLL_S = 0.2
END_WITHIN_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service."""

    host: str
    url: str
    metrics_url: str
    app_log: Path
    app_name: str
    ray_processes: tuple[psutil.Process, ...] = ()  # without which there is no cluster

    def is_alive(self) -> bool:
        """Whether Ray's own processes are still running."""
        return all(process.is_running() for process in self.ray_processes)

    def unready_models(self) -> dict[str, str]:
        """Return the models that could not be loaded, and why."""
        try:
            urllib.request.urlopen(f"{self.url}/readyz", timeout=READINESS_WITHIN_S).close()
        except urllib.error.HTTPError as error:
            if error.code != SERVICE_UNAVAILABLE:
                raise
            models: dict[str, dict[str, Any]] = json.load(error)["models"]
            return {name: model["reason"] for name, model in models.items() if not model["ready"]}
        return {}


@contextmanager
def launch(config: LaunchConfig, progress: Callable[[str], None]) -> Iterator[Service]:
    """Run the service on its own Ray until the block ends, then end all of its processes.

    Args:
        config: where and what to serve.
        progress: called with a short status message on each change.

    Raises:
        LaunchError: the port or the data folder is taken, or a deployment can't start.
    """
    host, port, options = config.host, config.port, config.options
    if problem := port_problem(host, port):
        raise LaunchError(f"Port {port} on {host} can't be used ({problem}). Choose another with --port.")
    metrics_port = options.metrics_port or free_port()
    data_path = config.settings.data_path
    with (
        _sole_user(data_path),
        _temporary_folder() as temporary,
        prepared_proxy(
            options.ingress,
            host=host,
            port=port,
            folder=temporary,
            request_within_s=config.settings.admission.deadline_s,
        ) as proxy,
    ):
        prepare_environment(data_path)
        _end_leases(config.settings)
        try:
            progress("Starting Ray")
            with child_environment(WORKER_ENVIRONMENT | proxy.environment):  # and gone before ray.serve is imported
                start_ray(options, metrics_port, temporary)
            progress("Starting the deployments")
            service = Service(
                host=host,
                url=f"http://{host}:{port}",
                metrics_url=f"http://127.0.0.1:{metrics_port}/metrics",
                app_log=data_path / "app.log",
                app_name=_deploy(config.listening_on(proxy.host)),
                ray_processes=_ray_processes(),
            )
            _wait_until_running(service, progress)
            _wait_for_answers(service)
            with advertised(data_path, service_url=service.url, metrics_url=service.metrics_url):
                yield service
        finally:
            _end_ray()


def join(address: str, config: LaunchConfig, progress: Callable[[str], None]) -> Service:
    """Deploy to the Ray cluster at `address` and leave the service running there.

    A Serve that is already running keeps its host and port; the URL of the returned service is that of a new one.

    Raises:
        LaunchError: a deployment can't start.
    """
    if config.options.ingress is not ProxyKind.PLAIN:
        raise LaunchError("A cluster's ingress is configured where its nodes start: see docs/deployment.md, Ingress.")
    import ray

    progress(f"Joining {address}")
    ray.init(address=address, namespace=RAY_NAMESPACE, log_to_driver=False)
    progress("Starting the deployments")
    host, _, _ = ray.get_runtime_context().gcs_address.rpartition(":")
    url = f"http://{host}:{config.port}"
    service = Service(host=host, url=url, metrics_url="", app_log=Path(), app_name=_deploy(config.serve))
    _wait_until_running(service, progress)
    return service


def start_ray(options: LaunchOptions, metrics_port: int, temporary: Path) -> None:
    """Start Ray, with retries: its own processes must start within 30 s, which may be too short on a busy machine."""
    import ray

    others = psutil.Process().children(recursive=True)
    for attempt in range(1, RAY_STARTS + 1):
        try:
            ray.init(
                address="local",
                namespace=RAY_NAMESPACE,
                include_dashboard=False,
                num_cpus=max(2, os.cpu_count() or 2),
                num_gpus=options.num_gpus,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _temp_dir=str(temporary),
                _metrics_export_port=metrics_port,
            )
        except Exception as error:
            started = [child for child in psutil.Process().children(recursive=True) if child not in others]
            ray.shutdown()
            _kill(started)
            if attempt == RAY_STARTS:
                raise LaunchError(f"Ray could not be started: {error}") from error
        else:
            return


def _deploy(config: Mapping[str, Any]) -> str:
    """Start Serve and deploy the parsed configuration; returns the application's name.

    `deploy_apps` is what Serve's command line and REST interface use, but not public: `tests/acceptance` would detect
    a change.
    """
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    parsed = ServeDeploySchema.model_validate(config)
    serve.start(
        proxy_location=parsed.proxy_location,
        http_options=parsed.http_options.model_dump(),
        logging_config=parsed.logging_config,
    )
    _get_global_client().deploy_apps(parsed)
    return str(parsed.applications[0].name)


def _wait_until_running(service: Service, progress: Callable[[str], None]) -> None:
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    for _ in _polls():
        overview = serve.status().applications.get(service.app_name)
        if overview is None:
            continue
        if overview.status is ApplicationStatus.DEPLOY_FAILED:
            reasons = [f"{name}: {d.message}" for name, d in overview.deployments.items() if d.message]
            raise LaunchError("\n".join([f"The deployments could not be started: {overview.message}", *reasons]))
        if overview.status is ApplicationStatus.RUNNING:
            return
        waiting = [name for name, status in overview.deployments.items() if status.status != "HEALTHY"]
        progress(f"Waiting for {', '.join(waiting)}" if waiting else "Waiting for the first deployment")


def _wait_for_answers(service: Service) -> None:
    """Wait until `/readyz` responds, ready or not: a model that can't be loaded doesn't stop the others."""
    for _ in _polls():
        with suppress(OSError, ValueError):  # refused, or the proxy's own response
            service.unready_models()
            return


def _polls() -> Iterator[None]:
    deadline = time.monotonic() + UP_WITHIN_S
    while time.monotonic() < deadline:
        yield
        time.sleep(POLL_S)
    raise LaunchError(f"The service was not up within {UP_WITHIN_S:g} s.")


def _ray_processes() -> tuple[psutil.Process, ...]:
    children = psutil.Process().children()
    return tuple(process for process in children if process.name() in ("raylet", "gcs_server"))


def _end_ray() -> None:
    """Drain and stop Serve and Ray, and kill remaining child processes."""
    import ray
    from ray import serve

    for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C must not interrupt the shutdown
        signal.signal(number, signal.SIG_IGN)
    family = psutil.Process().children(recursive=True)
    # Discard Ray's messages about calls in flight when their actor ended: they are expected.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        if ray.is_initialized():
            with suppress(Exception):  # a cluster that has died already doesn't respond
                serve.shutdown()
            ray.shutdown()
    _, alive = psutil.wait_procs(family, timeout=END_WITHIN_S)
    _kill(alive)


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=END_WITHIN_S)


def _end_leases(settings: ServiceSettings) -> None:
    """End the leases of interrupted jobs, so that they are retried at once: our own data folder has no other worker."""
    if settings.storage.database is None:
        open_store(settings).jobs.end_leases()


@contextmanager
def _sole_user(data_path: Path) -> Iterator[None]:
    """Hold the data folder's lock, so that no two instances of the service share it."""
    data_path.mkdir(parents=True, exist_ok=True)
    with (data_path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LaunchError(
                f"Another copy of the service uses the data folder {data_path}. Choose another with --data-dir."
            ) from None
        yield


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Create a folder with a short path for Ray's sockets; remove those of instances that were killed."""
    root = Path(tempfile.gettempdir())
    for left in root.glob(f"{TEMP_PREFIX}*"):
        owner = re.match(rf"{TEMP_PREFIX}(\d+)-", left.name)
        # In a restarted container the previous process had the same id.
        if owner and (int(owner[1]) == os.getpid() or not psutil.pid_exists(int(owner[1]))):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{TEMP_PREFIX}{os.getpid()}-", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
