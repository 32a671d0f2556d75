"""Leftovers of interrupted writes and deletions in the data folder: partial files, and bytes without an image."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graphs.http.context import ANONYMOUS_OWNER
from pipeline.imaging import codecs as images
from pipeline.store import new_id
from tests.chaos.ledger import Session

TWO_HOURS_S = 7200.0  # the sweep keeps files younger than one


def litter(data_dir: Path, sessions: Sequence[Session]) -> list[Path]:
    """Return partial files, images without a record, and results of deleted images."""
    ids = {image_id for session in sessions for image_id in session.images}
    digests = {(ANONYMOUS_OWNER, image.digest) for session in sessions for image in session.images.values()}

    def is_needed(path: Path) -> bool:
        if "#" in path.name:  # obstore writes `name#1`, and renames it to `name` when it is whole
            return False
        kind, *names = path.relative_to(data_dir / "blobs").parts
        return names[0].removesuffix(".png") in ids if kind == "images" else tuple(names[:2]) in digests

    return sorted(path for path in _files(data_dir) if not is_needed(path))


def leave_partial_files(data_dir: Path) -> None:
    """Create what kills rarely leave: an interrupted write, and bytes whose record was never written."""
    png = images.encode_png(np.zeros((64, 64, 3), np.uint8))
    for suffix in (".png", ".png#1"):
        (data_dir / "blobs" / "images" / f"{new_id()}{suffix}").write_bytes(png[: len(png) // 2])


def make_old(data_dir: Path) -> None:
    """Set old modification times, so that the sweep keeps no file because of its age."""
    then = time.time() - TWO_HOURS_S
    for path in _files(data_dir):
        os.utime(path, (then, then))


def _files(data_dir: Path) -> list[Path]:
    return [path for path in (data_dir / "blobs").rglob("*") if path.is_file()]
