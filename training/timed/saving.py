"""Weights are written while training goes on: by a thread, and each file whole or not at all."""

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
    """Give a new folder, whose files replace those of the same names in `folder` once the block has ended well."""
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
    """Writes one thing at a time in a thread; what fails is logged, and the next writing may do better."""

    def __init__(self, context: PartContext) -> None:
        self._context = context
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def submit(self, write: Callable[..., None], *arguments: object) -> None:
        """Start writing, after the last one has ended."""
        self.wait()
        self._last = self._pool.submit(write, *arguments)

    def wait(self) -> None:
        """Wait until the last writing has ended."""
        if self._last is None:
            return
        try:
            self._last.result()
        except Exception:  # the last writing isn't done here: where that fails, the part does
            self._context.log(f"weights weren't written: {traceback.format_exc()}")
        self._last = None
