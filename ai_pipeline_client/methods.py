"""Turn functions that describe calls into methods of a client."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def documented(method: F, description: Callable[..., Any], answer: str) -> F:
    """Give a method the name, docstring and signature of its description.

    Args:
        answer: the method's return type, with `{}` for the type that the description is of: `AsyncGenerator[{}]`.
    """
    signature = inspect.signature(description)
    _, _, result = str(signature.return_annotation).partition("[")  # of Call[Image], Script[Image] or Items[Image]
    method.__name__ = method.__qualname__ = description.__name__
    method.__doc__ = description.__doc__
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = signature.replace(  # type: ignore[attr-defined]  # read by `help` and editors
        parameters=[own, *signature.parameters.values()], return_annotation=answer.format(result.removesuffix("]"))
    )
    return method
