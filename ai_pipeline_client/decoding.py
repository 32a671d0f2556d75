"""Reads JSON into the records of `results`. What a record doesn't know is left out: a newer service says more."""

from __future__ import annotations

import dataclasses
from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

WIRE = "wire"  # in a field's metadata: its name in JSON, where that is another


def wire(name: str) -> Any:
    """A field that has another name in JSON."""
    return dataclasses.field(metadata={WIRE: name})


def decoded(kind: type[T], said: Any) -> T:
    """Read a JSON value as a record, or as what a record's fields hold.

    Args:
        kind: a dataclass, a plain type, `bytes` (of base64), `datetime`, a tuple of such, or any of these or None.

    Raises:
        KeyError, TypeError, ValueError: it isn't one.
    """
    value: T = _value(kind, said)
    return value


def _value(kind: Any, said: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return _record(kind, said)
    if get_origin(kind) in (UnionType, Union):
        if said is None and NoneType in get_args(kind):
            return None
        return _value(next(option for option in get_args(kind) if option is not NoneType), said)
    if get_origin(kind) is tuple:
        return _tuple(get_args(kind), said)
    if kind is bytes:
        return b64decode(said, validate=True)
    if kind is datetime:
        return datetime.fromisoformat(said)
    if kind is float and isinstance(said, int):
        return float(said)
    if isinstance(kind, type) and not isinstance(said, kind):
        raise TypeError(f"{said!r:.80} is no {kind.__name__}")
    return said


def _tuple(items: tuple[Any, ...], said: Any) -> tuple[Any, ...]:
    if not isinstance(said, list):
        raise TypeError(f"{said!r:.80} is no list")
    if items[1:] == (...,):
        return tuple(_value(items[0], item) for item in said)
    return tuple(_value(kind, item) for kind, item in zip(items, said, strict=True))


def _record(kind: Any, said: Any) -> Any:
    if not isinstance(said, Mapping):
        raise TypeError(f"{said!r:.80} is no {kind.__name__}")
    values = {}
    for field, hint in _fields(kind):
        name = field.metadata.get(WIRE, field.name)
        if name in said or field.default is dataclasses.MISSING:
            values[field.name] = _value(hint, said[name])
    return kind(**values)


@cache
def _fields(kind: Any) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = get_type_hints(kind)
    return [(field, hints[field.name]) for field in dataclasses.fields(kind)]
