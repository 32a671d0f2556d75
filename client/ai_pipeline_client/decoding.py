"""Decode JSON into the records of `results`. Unknown fields are ignored: a newer service may send more."""

from __future__ import annotations

import dataclasses
from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

WIRE = "wire"  # in a field's metadata: its name in JSON, if different


def wire(name: str) -> Any:
    """Declare a field that has another name in JSON."""
    return dataclasses.field(metadata={WIRE: name})


def decoded(kind: type[T], value: Any) -> T:
    """Decode a JSON value as a record, or as the type of a record's field.

    Args:
        kind: a dataclass, a plain type, `bytes` (of base64), `datetime`, a tuple of such, or any of these or None.

    Raises:
        KeyError, TypeError, ValueError: it isn't one.
    """
    result: T = _value(kind, value)
    return result


def _value(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return _record(kind, value)
    if get_origin(kind) in (UnionType, Union):
        if value is None and NoneType in get_args(kind):
            return None
        return _value(next(option for option in get_args(kind) if option is not NoneType), value)
    if get_origin(kind) is tuple:
        return _tuple(get_args(kind), value)
    if kind is bytes:
        return b64decode(value, validate=True)
    if kind is datetime:
        return datetime.fromisoformat(value)
    if kind is float and isinstance(value, int):
        return float(value)
    if isinstance(kind, type) and not isinstance(value, kind):
        raise TypeError(f"{value!r:.80} is no {kind.__name__}")
    return value


def _tuple(items: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.80} is no list")
    if items[1:] == (...,):
        return tuple(_value(items[0], item) for item in value)
    return tuple(_value(kind, item) for kind, item in zip(items, value, strict=True))


def _record(kind: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r:.80} is no {kind.__name__}")
    values = {}
    for field, hint in _fields(kind):
        name = field.metadata.get(WIRE, field.name)
        if name in value or field.default is dataclasses.MISSING:
            values[field.name] = _value(hint, value[name])
    return kind(**values)


@cache
def _fields(kind: Any) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = get_type_hints(kind)
    return [(field, hints[field.name]) for field in dataclasses.fields(kind)]
