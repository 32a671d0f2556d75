"""Console output of `serve`: the lines that replicas append to `app.log`, streamed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

POLL_S = 0.2


def follow(path: Path) -> None:
    """Print the lines appended to a file from now on; never returns, so run it in a daemon thread."""
    path.touch()
    with path.open() as log:
        log.seek(0, 2)
        while True:
            if text := log.read():
                sys.stdout.write(text)
                sys.stdout.flush()
            else:
                time.sleep(POLL_S)
