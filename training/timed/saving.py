"""Writes weights during training: in a thread, and each file atomically."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from training.timed.part import PartContext


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a new folder, whose files replace those of the same names in `folder` after the block succeeds."""
    folder.mkdir(parents=True, exist_ok=True)
    stage = Path(mkdtemp(prefix=".writing-", dir=folder))
    try:
        yield stage
        for file in sorted(path for path in stage.rglob("*") if path.is_file()):
            target = folder / file.relative_to(stage)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.chmod(0o644)
            os.replace(file, target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


class BackgroundWriter:
    """Writes one item at a time in a thread; failures are logged, and the next write tries again."""

    def __init__(self, context: PartContext) -> None:
        self._context = context
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def submit(self, write: Callable[..., None], *arguments: object) -> None:
        """Start a write, after the previous one has ended."""
        self.wait()
        self._last = self._pool.submit(write, *arguments)

    def wait(self) -> None:
        """Wait until the last write has ended."""
        if self._last is None:
            return
        try:
            self._last.result()
        except Exception:  # the final write doesn't run here: if it fails, so does the part
            self._context.log(f"weights weren't written: {traceback.format_exc()}")
        self._last = None
