"""Bytes by name in an object store: a local folder, S3, Google Cloud Storage or Azure, all through obstore."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, from_url

from pipeline.errors import StorageUnavailable

logger = logging.getLogger("ai_pipeline")

RETRIES_S = timedelta(seconds=20)  # since the first attempt, of at most 30 s each; by default it is three minutes

_STAGED = re.compile(r".*#\d+")  # left behind by a killed write


class Blobs:
    """Named blobs, each written atomically.

    All methods raise `StorageUnavailable` if the store is unreachable, refuses access, or is full.

    Args:
        location: a folder, or a URL such as `s3://bucket/prefix`; credentials come from the environment variables
            of the cloud's own tools.
    """

    def __init__(self, location: Path | str) -> None:
        self._folder = location if isinstance(location, Path) else None
        if isinstance(location, Path):
            location.mkdir(parents=True, exist_ok=True)
            self._store = LocalStore(str(location))
        else:
            self._store = from_url(location, retry_config={"retry_timeout": RETRIES_S})  # type: ignore[assignment]

    def put(self, name: str, data: bytes) -> None:
        """Write a blob, replacing an older one of this name."""
        with _available():
            obstore.put(self._store, name, data)

    def get(self, name: str) -> bytes | None:
        """Read a blob; return None if there is none of this name."""
        with _available(), suppress(NotFoundError, FileNotFoundError):
            return obstore.get(self._store, name).bytes().to_bytes()
        return None

    def delete(self, *names: str) -> None:
        """Delete blobs; unknown names are ignored."""
        for name in names:
            with _available(), suppress(NotFoundError, FileNotFoundError):
                obstore.delete(self._store, name)

    def list(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Yield the names below a prefix, with the time of writing."""
        with _available():
            for page in obstore.list(self._store, prefix):
                for entry in page:
                    yield entry["path"], entry["last_modified"]

    def sweep_staged(self, older_than_s: float) -> int:
        """Delete leftovers of killed writes in a local folder (object stores leave none); return their number."""
        if self._folder is None:
            return 0
        before = time.time() - older_than_s
        removed = 0
        for path in self._folder.rglob("*"):
            with suppress(FileNotFoundError):  # another replica may sweep too, and a write may finish
                if _STAGED.fullmatch(path.name) and path.stat().st_mtime < before:
                    path.unlink()
                    removed += 1
        return removed


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        logger.error("The object store failed: %s", str(error).partition("\n")[0])  # the rest is for obstore's authors
        raise StorageUnavailable from error
