"""A real service in its own process, on free ports, for acceptance tests and benchmarks."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from testing.ports import quiet_port
from testing.tracing import spans_in

ROOT = Path(__file__).parents[1]
START_WITHIN_S = 300
SETTLE_WITHIN_S = 300  # ends a test that hangs; nothing that passes waits for it
GONE_WITHIN_S = 120  # of processes whose service has ended
POLL_S = 0.1
SPANS = "spans.jsonl"
QUICK_SCALING = {"upscale_delay_s": 1, "downscale_delay_s": 3, "metrics_interval_s": 1, "look_back_period_s": 2}


@dataclass
class RunningService:
    """A service under test and its process tree."""

    url: str
    metrics_url: str
    data_dir: Path
    process: psutil.Process
    console: Path
    ui_url: str = ""  # if it has a dashboard
    api_key: str = ""  # sent by its clients

    @property
    def spans(self) -> Path:
        """The file of its traces, if it is `tracing`."""
        return self.data_dir / SPANS

    def client(self, **options: Any) -> httpx.Client:
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return httpx.Client(base_url=self.url, timeout=300, headers=key | dict(options.pop("headers", {})), **options)

    def post(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Post an empty body from a new client, as another user would."""
        with self.client() as client:
            return client.post(path, headers=headers)

    def new_trace(self) -> RequestTrace:
        """Start a trace for requests, if the service is `tracing`."""
        return RequestTrace(self.spans)

    def kill_everything(self) -> None:
        """Kill every process of the service at once, like a power failure."""
        family = [self.process, *self.process.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=SETTLE_WITHIN_S)

    def processes(self, title: str) -> list[psutil.Process]:
        """Return the service's processes whose title contains this text, such as `ray::SegmentationCache`."""
        found = []
        for process in self.process.children(recursive=True):
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    @contextmanager
    def paused(self, title: str) -> Iterator[None]:
        """Suspend the processes of this title until the block ends; Serve replaces them after half a minute."""
        processes = self.processes(title)
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):  # a test may have killed it
                    process.resume()

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels."""
        total = 0.0
        for line in httpx.get(self.metrics_url, timeout=SETTLE_WITHIN_S).text.splitlines():
            matched = re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line)
            if matched and all(f'{key}="{value}"' in matched[1] for key, value in labels.items()):
                total += float(matched[2])
        return total


class RequestTrace:
    """The spans that a traced service writes for requests with `headers`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.trace_id = secrets.token_hex(16)
        self.caller_id = secrets.token_hex(8)
        self.headers = {"traceparent": f"00-{self.trace_id}-{self.caller_id}-01"}

    def spans(self) -> list[dict[str, Any]]:
        """Return the ended spans; within a process, children precede their parents."""
        return [span for span in spans_in(self._file) if span["context"]["trace_id"] == f"0x{self.trace_id}"]

    def requests(self) -> list[dict[str, Any]]:
        """Return the children of the caller's span."""
        return [span for span in self.spans() if span["parent_id"] == f"0x{self.caller_id}"]

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the spans of this name."""
        return [span for span in self.spans() if span["name"] == name]

    def wait_for(self, name: str, number: int = 1) -> list[dict[str, Any]]:
        """Wait until this number of spans of this name have ended; return them."""
        wait_until(lambda: len(self.named(name)) >= number)
        return self.named(name)


def wait_until(
    condition: Callable[[], object],
    within_s: float = SETTLE_WITHIN_S,
    problem: Callable[[], object] = lambda: "it never came true",
) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it doesn't hold in time; the message has the result of `problem`.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {problem()}")
        threading.Event().wait(POLL_S)


def quick_scaling(folder: Path, deployment: str) -> Path:
    """Write a copy of `serve_config.yaml` with one deployment that scales within seconds."""

    def hurry(application: dict[str, Any]) -> None:
        for entry in application["deployments"]:
            if entry["name"] == deployment:
                entry["autoscaling_config"] |= QUICK_SCALING

    return changed_config(folder, hurry)


def changed_config(
    folder: Path, change: Callable[[dict[str, Any]], None], original: Path = ROOT / "serve_config.yaml"
) -> Path:
    """Write a copy of `serve_config.yaml`, or of a similar file, with its application changed."""
    config = yaml.safe_load(original.read_text())
    change(config["applications"][0])
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def tracing(folder: Path) -> tuple[str, str]:
    """Return the option that traces the service in this folder."""
    return "--traces", f"file:{folder / 'data' / SPANS}"


@contextmanager
def serving(
    folder: Path,
    *arguments: str,
    program: Sequence[str | Path] = (sys.executable, "-m", "cli.main"),
    ui_port: int | None = None,
    environment: Mapping[str, str] | None = None,
    api_key: str = "",
    end_within_s: float = GONE_WITHIN_S,
) -> Iterator[RunningService]:
    """Run the service until the block ends, and check that it leaves no process behind."""
    port, metrics_port = quiet_port(), quiet_port()
    console = folder / "console.txt"
    command = [*program, "serve", "--port", str(port), "--metrics-port", str(metrics_port)]
    command += ["--no-ui"] if ui_port is None else ["--ui-port", str(ui_port)]
    up = "Ready" if ui_port is None else "Dashboard"
    with console.open("w") as output:
        process = psutil.Popen(
            [*command, "--data-dir", str(folder / "data"), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT if "-m" in program else folder,  # an installed program must not import the checkout
            env=os.environ | {"RAY_metrics_report_interval_ms": "1000"} | dict(environment or {}),
        )
    url = f"http://127.0.0.1:{port}"
    service = RunningService(url, f"http://127.0.0.1:{metrics_port}/metrics", folder / "data", process, console)
    service.api_key = api_key
    if ui_port is not None:
        service.ui_url = f"http://127.0.0.1:{ui_port}"
    family: list[psutil.Process] = []
    try:
        wait_until(lambda: up in console.read_text() or process.poll() is not None, START_WITHIN_S)
        assert process.poll() is None, console.read_text()
        yield service
        with suppress(psutil.NoSuchProcess):  # a test may have killed it
            family = process.children(recursive=True)
    finally:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
            process.wait(end_within_s)
        _, alive = psutil.wait_procs(family, timeout=GONE_WITHIN_S)
    assert alive == []
