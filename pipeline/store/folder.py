"""Images and sessions as files in one folder, for one machine.

Every file is written under another name and renamed, so that a reader never sees half of one; an image's record comes
after its pixels, so that an image with a record is whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from pydantic import TypeAdapter

from pipeline.errors import ImageNotFound
from pipeline.records import ImageRecord

_RECORDS = TypeAdapter(ImageRecord)


class FolderStore:
    """A `Store` in `root`/images and `root`/sessions."""

    def __init__(self, root: Path) -> None:
        self._images = root / "images"
        self._sessions = root / "sessions"
        self._images.mkdir(parents=True, exist_ok=True)
        self._sessions.mkdir(exist_ok=True)

    def add(self, record: ImageRecord, png: bytes, sessions: Sequence[str]) -> None:
        """See `Store.add`."""
        _write(self._images / f"{record.image_id}.png", png)
        _write(self._images / f"{record.image_id}.json", _RECORDS.dump_json(record))
        for session in sessions:
            _write(self._session_file(record.owner, session), record.image_id.encode())

    def record(self, image_id: str) -> ImageRecord:
        """See `Store.record`."""
        return _RECORDS.validate_json(self._read(image_id, "json"))

    def png(self, image_id: str) -> bytes:
        """See `Store.png`."""
        return self._read(image_id, "png")

    def last_image_id(self, owner: str, session: str) -> str | None:
        """See `Store.last_image_id`."""
        try:
            return self._session_file(owner, session).read_text()
        except FileNotFoundError:
            return None

    def _read(self, image_id: str, suffix: str) -> bytes:
        try:
            return (self._images / f"{image_id}.{suffix}").read_bytes()
        except FileNotFoundError:
            raise ImageNotFound(image_id=image_id) from None

    def _session_file(self, owner: str, session: str) -> Path:
        return self._sessions / hashlib.sha256(f"{owner}\0{session}".encode()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{uuid4().hex}")
    temporary.write_bytes(data)
    os.replace(temporary, path)
