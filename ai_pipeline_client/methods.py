"""How a function that describes a call becomes a method that does it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def documented(method: F, description: Callable[..., Any], answer: str) -> F:
    """Give a method the name, the documentation and the signature of what it does.

    Args:
        answer: the method's return type, with `{}` for what the description is of: `AsyncGenerator[{}]`.
    """
    said = inspect.signature(description)
    _, _, result = str(said.return_annotation).partition("[")  # of Call[Image], Script[Image] or Items[Image]
    method.__name__ = method.__qualname__ = description.__name__
    method.__doc__ = description.__doc__
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = said.replace(  # type: ignore[attr-defined]  # what `help` and editors read
        parameters=[own, *said.parameters.values()], return_annotation=answer.format(result.removesuffix("]"))
    )
    return method
