"""Wanted images, and for whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.jobs import IdempotencyKey
from pipeline.records import GenerationRequest

if TYPE_CHECKING:
    from graphs.http.context import Caller


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationJobSpec:
    """A wanted image, and for whom."""

    request: GenerationRequest
    owner: str
    sessions: Sequence[str]  # whose last image it becomes
    request_id: str
    key: IdempotencyKey | None = None


def orders_of(
    requests: Sequence[GenerationRequest], caller: Caller, key: IdempotencyKey | None
) -> list[GenerationJobSpec]:
    """A caller's orders; where one call asks for several images, each has the call's key with its own number."""
    return [
        GenerationJobSpec(
            request=request,
            owner=caller.owner,
            sessions=caller.sessions,
            request_id=caller.request_id,
            key=key if key is None or number == 0 else replace(key, key=f"{key.key}#{number}"),
        )
        for number, request in enumerate(requests)
    ]
