"""Clients' records of what a service acknowledged, and of requests that it may have served without an answer.

A session has at most one request in flight. One that was not answered took effect entirely or not at all; the first
check after the restart decides which, and from then on its effect is recorded like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Listed = dict[str, Any]  # an image as `GET /v1/images` lists it


@dataclass(kw_only=True)
class Image:
    """An image that must exist."""

    digest: str
    png: bytes | None = None  # None until its content was downloaded
    answers: dict[str, Any] = field(default_factory=dict)  # by path: the answers about it


@dataclass
class Session:
    """One client's ledger."""

    name: str
    images: dict[str, Image] = field(default_factory=dict)  # by id, oldest first
    deleted: list[str] = field(default_factory=list)
    last: str | None = None
    making: Callable[[Listed], bool] | None = None  # matches the requested image that was not acknowledged
    deleting: str | None = None  # the image whose requested deletion was not acknowledged

    @property
    def is_in_flight(self) -> bool:
        """Whether a request that changes something was not answered yet."""
        return self.making is not None or self.deleting is not None

    def keep(self, image_id: str, image: Image) -> None:
        self.images[image_id] = image
        self.last = image_id
        self.making = None

    def drop(self, image_id: str) -> None:
        del self.images[image_id]
        self.deleted.append(image_id)
        self.deleting = None
        if self.last == image_id:
            self.last = None

    def settle(self, listed: Mapping[str, Listed], unclaimed: set[str]) -> None:
        """Determine whether the request in flight took effect; remove an image that it made from `unclaimed`."""
        if self.making is not None:
            made = next((image_id for image_id in sorted(unclaimed) if self.making(listed[image_id])), None)
            self.making = None
            if made is not None:
                unclaimed.remove(made)
                self.keep(made, Image(digest=listed[made]["digest"]))
        if self.deleting is not None:
            deleting, self.deleting = self.deleting, None
            if deleting not in listed:
                self.drop(deleting)
