"""What `Client` does in its own way; `aio.io` has the same names for `AsyncClient`."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Callable, Generator, Optional, TypeVar

import httpx

from ai_pipeline_client.errors import PipelineError
from ai_pipeline_client.progress import Reporter
from ai_pipeline_client.results import Progress

__all__ = ["Cleanups", "Http", "Items", "Transport", "closing", "displayed", "notify", "pause"]

T = TypeVar("T")

Http = httpx.Client
Transport = httpx.BaseTransport
Items = Generator[T, None, None]

pause = time.sleep


def notify(reporter: Reporter, progress: Progress) -> None:
    """Report progress."""
    reporter.report(progress)


def displayed(content: Optional[bytes], fetch: Callable[[], bytes]) -> Optional[bytes]:
    """Return the bytes to show in a notebook; None if the service doesn't have them any more."""
    if content is not None:
        return content
    try:
        return fetch()
    except PipelineError:
        return None


class Cleanups:
    """Work that is finished before an error is raised."""

    def run(self, cleanup: Callable[[], None]) -> None:
        """Run a cleanup."""
        cleanup()

    def wait(self) -> None:
        """Return at once: each was waited for."""
