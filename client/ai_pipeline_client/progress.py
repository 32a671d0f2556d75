"""Reports of progress: to a callback, and as a bar on stderr."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from typing import Any, Dict, List, Optional

from ai_pipeline_client.results import OnProgress, Progress

WIDTH = 30  # characters of a plain bar


class Reporter:
    """Reports the progress of the images of one call.

    Args:
        on_progress: a callback.
        bar: whether to show a bar on stderr, if it is a terminal: by tqdm or rich if there is one, else plain text.
    """

    def __init__(self, on_progress: Optional[OnProgress] = None, bar: bool = False) -> None:
        self._on_progress = on_progress
        self._steps: Dict[int, int] = {}  # done, by number of the image
        self._num_steps: Dict[int, int] = {}
        self._bar = _new_bar() if bar and sys.stderr.isatty() else None

    def report(self, progress: Progress) -> object:
        """Report progress; return what the callback returned."""
        if self._bar is not None:
            self._steps[progress.number] = progress.step
            self._num_steps[progress.number] = progress.num_steps
            self._bar.show(sum(self._steps.values()), sum(self._num_steps.values()))
        return None if self._on_progress is None else self._on_progress(progress)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


class PlainBar:
    """A bar of plain text."""

    def show(self, done: int, total: int) -> None:
        """Draw the bar."""
        filled = WIDTH * done // max(total, 1)
        sys.stderr.write(f"\r{'#' * filled}{'.' * (WIDTH - filled)} {done}/{total}")
        sys.stderr.flush()

    def close(self) -> None:
        """End the line."""
        sys.stderr.write("\n")


class TqdmBar:
    """A bar of tqdm."""

    def __init__(self, tqdm: Any) -> None:
        self._bar = tqdm.tqdm(desc="Denoising", unit="step", file=sys.stderr)

    def show(self, done: int, total: int) -> None:
        """Draw the bar."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leave the bar."""
        self._bar.close()


class RichBar:
    """A bar of rich."""

    def __init__(self, progress: Any) -> None:
        console = importlib.import_module("rich.console").Console(stderr=True)
        self._progress = progress.Progress(console=console)
        self._task = self._progress.add_task("Denoising", total=None)
        self._progress.start()

    def show(self, done: int, total: int) -> None:
        """Draw the bar."""
        self._progress.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Leave the bar."""
        self._progress.stop()


def _new_bar() -> Any:
    bars: List[Any] = [("tqdm", TqdmBar), ("rich.progress", RichBar)]
    for module, bar in bars:
        with suppress(ImportError):
            return bar(importlib.import_module(module))
    return PlainBar()
