from __future__ import annotations

import inspect
from dataclasses import fields
from typing import get_args

import pytest

from pipeline import events
from pipeline.events import DomainEvent, GenerationStepped, StageFinished, event_type

KINDS = [kind for _, kind in inspect.getmembers(events, inspect.isclass) if hasattr(kind, "request_id")]
PUBLIC = [kind for kind in KINDS if not kind.__name__.startswith("_")]


def test_the_union_contains_every_event():
    assert PUBLIC
    assert [kind for kind in PUBLIC if not issubclass(kind, get_args(DomainEvent))] == []


@pytest.mark.parametrize("kind", PUBLIC)
def test_no_event_has_a_field_for_a_prompt(kind):
    assert not {field.name for field in fields(kind)} & {
        "prompt",
        "negative_prompt",
        "text",
        "label",
        "session",
    }


def test_streams_name_each_kind_of_event_differently():
    concrete = [kind for kind in PUBLIC if kind is not StageFinished]
    types = {event_type(kind.__new__(kind)) for kind in concrete}
    assert len(types) == len(concrete)
    assert event_type(GenerationStepped.__new__(GenerationStepped)) == "generation.stepped"
