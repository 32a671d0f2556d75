"""One event of each kind, with recognisable field values."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, get_args, get_type_hints

from pipeline.events import DomainEvent, StageFinished


def example(kind: type[DomainEvent], **changes: Any) -> DomainEvent:
    """Return an event whose strings name their field, such as `the-image_id`."""
    hints = get_type_hints(kind)
    values = {field.name: _value(field.name, hints[field.name]) for field in fields(kind) if field.default is MISSING}
    return kind(**(values | changes))


def _value(name: str, hint: Any) -> Any:
    if hint is str:
        return f"the-{name}"
    if hint in (int, float):
        return hint(3)
    return get_args(hint)[0]  # of a Literal


KINDS = [kind for kind in get_args(DomainEvent) if kind is not StageFinished] + StageFinished.__subclasses__()
EVENTS = [example(kind) for kind in KINDS]
