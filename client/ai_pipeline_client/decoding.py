"""Decode JSON into the records of `results`. Unknown fields are ignored: a newer service may send more."""

from __future__ import annotations

import dataclasses
import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any, List, Literal, Tuple, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

WIRE = "wire"  # in a field's metadata: its names in JSON, if different, the first of which counts

_TIME = re.compile(r"(.*:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")


def wire(*names: str, **options: Any) -> Any:
    """Declare a field that has another name in JSON.

    Args:
        names: the first that a record has counts.
        options: of `dataclasses.field`.
    """
    return dataclasses.field(metadata={WIRE: names}, **options)


def decoded(kind: type[T], value: Any) -> T:
    """Decode a JSON value as a record, or as the type of a record's field.

    Args:
        kind: a dataclass, a plain type, `bytes` (of base64), `datetime`, a tuple or a mapping of such, or any of these
            or None.

    Raises:
        KeyError, TypeError, ValueError: it isn't one.
    """
    result: T = _value(kind, value)
    return result


def _value(kind: Any, value: Any) -> Any:
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _record(kind, value)
    if get_origin(kind) is Union:
        return _option(get_args(kind), value)
    if get_origin(kind) is tuple:
        return _tuple(get_args(kind), value)
    if kind is bytes:
        return b64decode(value, validate=True)
    if kind is datetime:
        return moment(value)
    if kind is float and isinstance(value, int):
        return float(value)
    if get_origin(kind) is Mapping:
        return _mapping(get_args(kind)[1], value)
    if isinstance(get_origin(kind), type):  # such as dict[str, Any]
        kind = get_origin(kind)
    if isinstance(kind, type) and not isinstance(value, kind):
        raise TypeError(f"{value!r:.80} is no {kind.__name__}")
    return value


def moment(text: str) -> datetime:
    """Decode a time of RFC 3339; Python 3.9 takes neither Z nor any number of decimals.

    Raises:
        ValueError: it isn't one.
    """
    parts = _TIME.fullmatch(text)
    if parts is None:
        raise ValueError(f"{text!r:.80} is no time")
    fraction = f"{parts[2]:0<7.7}" if parts[2] else ""
    return datetime.fromisoformat(f"{parts[1]}{fraction}{'+00:00' if parts[3] == 'Z' else parts[3]}")


def _option(options: Tuple[Any, ...], value: Any) -> Any:
    """Decode a value of a union: None, or the first type, of which literals are examples."""
    if value is None and type(None) in options:
        return None
    kinds = [option for option in options if option is not type(None) and get_origin(option) is not Literal]
    return _value(kinds[0], value)


def _mapping(kind: Any, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r:.80} is no object")
    return {name: _value(kind, item) for name, item in value.items()}


def _tuple(items: Tuple[Any, ...], value: Any) -> Tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.80} is no list")
    if items[1:] == (...,):
        return tuple(_value(items[0], item) for item in value)
    if len(items) != len(value):
        raise ValueError(f"{value!r:.80} has not {len(items)} items")
    return tuple(_value(kind, item) for kind, item in zip(items, value))


def _record(kind: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r:.80} is no {kind.__name__}")
    values = {}
    for field, hint in _fields(kind):
        names = field.metadata.get(WIRE, (field.name,))
        name = next((name for name in names if name in value), names[0])
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name in value or not has_default:
            values[field.name] = _value(hint, value[name])
    return kind(**values)


@cache
def _fields(kind: Any) -> List[Tuple[dataclasses.Field[Any], Any]]:
    hints = get_type_hints(kind)
    return [(field, hints[field.name]) for field in dataclasses.fields(kind)]
