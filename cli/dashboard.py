"""The dashboard as a child process of `serve`: started after the service, ended with it, never ending it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from cli.config import LaunchConfig
from cli.errors import LaunchError
from cli.launcher import Service
from cli.ports import port_problem

UI_PORT = 7860
UP_WITHIN_S = 120.0
END_WITHIN_S = 5.0
POLL_S = 0.2


def check_port(config: LaunchConfig, port: int) -> None:
    """Check before anything is started that the dashboard's port is free.

    Raises:
        LaunchError: it isn't.
    """
    if problem := port_problem(config.host, port):
        raise LaunchError(f"Port {port} for the dashboard can't be used ({problem}). Choose another with --ui-port.")


@contextmanager
def running_dashboard(service: Service, port: int) -> Iterator[str]:
    """Run the dashboard until the block ends; yields its URL.

    Raises:
        LaunchError: it exited at once, or doesn't respond.
    """
    url = f"http://{service.host}:{port}"
    log = service.app_log.with_name("dashboard.log")
    arguments = ["--server", service.url, "--host", service.host, "--ui-port", str(port), "--parent", str(os.getpid())]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "dashboard", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the service handles Ctrl-C, and ends the dashboard
        )
    try:
        deadline = time.monotonic() + UP_WITHIN_S
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError):
                urllib.request.urlopen(url, timeout=END_WITHIN_S).close()
                break
            time.sleep(POLL_S)
        else:
            raise LaunchError(f"The dashboard did not start; see {log}. --no-ui serves without it.")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_with(parent: int) -> None:
    """Exit this process as soon as another one has exited, for whatever reason."""

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(parent).wait()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
