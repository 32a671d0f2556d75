"""What `Client` does in its own way; `async_io` has the same names for `AsyncClient`."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeAlias, TypeVar

import httpx

from ai_pipeline_client.results import OnProgress, Progress

__all__ = ["Cleanups", "Http", "Items", "Transport", "closing", "notify", "pause"]

T = TypeVar("T")

Http: TypeAlias = httpx.Client
Transport: TypeAlias = httpx.BaseTransport
Items: TypeAlias = Generator[T, None, None]

pause = time.sleep


def notify(on_progress: OnProgress | None, progress: Progress) -> None:
    """Invoke a progress callback."""
    if on_progress is not None:
        on_progress(progress)


class Cleanups:
    """Work that is finished before an error is raised."""

    def run(self, cleanup: Callable[[], None]) -> None:
        """Run a cleanup."""
        cleanup()

    def wait(self) -> None:
        """Return at once: each was waited for."""
