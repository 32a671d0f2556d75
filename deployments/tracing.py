"""Trace propagation into calls of a replica."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Protocol, TypeVar

from opentelemetry.trace import SpanKind

from pipeline.traces import Traces, within

T = TypeVar("T")


class Traced(Protocol):
    """A deployment that takes part in traces."""

    traces: Traces


def traced(method: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Make an async method accept its caller's `traceparent`, and run in a child span of it, if there is one."""

    @wraps(method)
    async def in_trace(self: Traced, *args: Any, traceparent: str = "", **named: Any) -> T:
        continued = self.traces.continued(traceparent, method.__qualname__, kind=SpanKind.SERVER)
        with continued as context, within(context):
            return await method(self, *args, **named)

    return in_trace
