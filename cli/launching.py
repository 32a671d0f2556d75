"""Services that a command starts, with a line of status and interruption by signals."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli.config import LaunchConfig
from cli.console import error_console
from cli.launcher import Service, join, launch


@contextmanager
def launched(config: LaunchConfig) -> Iterator[Service]:
    """Start a service and end it with the block; Ctrl-C and SIGTERM interrupt the block."""
    _interrupt_on_signals()
    with ExitStack() as stack:
        with status_line() as progress:
            service = stack.enter_context(launch(config, progress))
        _interrupt_on_signals()  # ray.init has installed its own handlers
        yield service


@contextmanager
def joined(address: str, config: LaunchConfig) -> Iterator[Service]:
    """Deploy to a Ray cluster, where the service stays."""
    with status_line() as progress:
        service = join(address, config, progress)
    yield service


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Show the current status and the elapsed time while the block runs."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, transient=True, console=error_console) as progress:
        task = progress.add_task("Starting", total=None)
        yield lambda message: progress.update(task, description=message)


def _interrupt_on_signals() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
