from __future__ import annotations

import inspect
from dataclasses import fields
from typing import get_args

import pytest

from pipeline import events
from pipeline.events import Event

KINDS = [kind for _, kind in inspect.getmembers(events, inspect.isclass) if hasattr(kind, "request_id")]
PUBLIC = [kind for kind in KINDS if not kind.__name__.startswith("_")]


def test_the_union_closes_over_every_event():
    assert PUBLIC
    assert [kind for kind in PUBLIC if not issubclass(kind, get_args(Event))] == []


@pytest.mark.parametrize("kind", PUBLIC)
def test_no_event_has_room_for_a_prompt(kind):
    assert not {field.name for field in fields(kind)} & {
        "prompt",
        "negative_prompt",
        "text",
        "label",
        "session",
    }
