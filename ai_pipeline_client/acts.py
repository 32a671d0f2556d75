"""Client logic without I/O (sans-I/O): scripts yield acts, and the clients perform them.

A script is a generator that yields acts and is sent their results, or thrown their exceptions. So retries, resumed
streams and waiting for images are implemented once, for the blocking and the asyncio client.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import httpx

from ai_pipeline_client.results import Progress

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[T]):
    """A request, and how to read its response. As an act: send it, with retries."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    files: Mapping[str, bytes] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True  # whether it may be retried when it is unknown whether it arrived
    is_stream: bool = False  # whether its response is a stream, read event by event
    quiet_s: float | None = None  # read timeout of a stream; as the service's heartbeat requires, if None


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Send a call once; the result is the response, whatever its status."""

    call: Call[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """Read the next event of the open stream; the result is None at its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Close:
    """Close the open stream."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """Sleep."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tell:
    """Invoke a progress callback."""

    callback: Callable[[Progress], object]
    progress: Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Emit:
    """Yield an item to the caller's iteration."""

    item: Any


Act: TypeAlias = Call[Any] | Request | Read | Close | Pause | Tell | Emit
Script: TypeAlias = Generator[Act, Any, T]


@dataclass(frozen=True, slots=True)
class Items(Generic[T]):
    """A script that emits items."""

    script: Script[None]


def send(call: Call[T]) -> Script[T]:
    """Send one call, as a script."""
    result: T = yield call
    return result


class Play(Generic[T]):
    """A script in progress.

    Attributes:
        act: the next act to perform; None at the script's end.
        result: the script's return value, at its end.
    """

    act: Act | None
    result: T

    def __init__(self, script: Script[T]) -> None:
        self._script = script
        self._resume(lambda: next(script))

    def go_on(self, result: Any) -> None:
        """Resume the script with the result of its act."""
        self._resume(lambda: self._script.send(result))

    def fail(self, error: BaseException) -> None:
        """Throw the act's error into the script; raises it if the script doesn't handle it."""
        self._resume(lambda: self._script.throw(error))

    def _resume(self, advance: Callable[[], Act]) -> None:
        try:
            self.act = advance()
        except StopIteration as end:
            self.act, self.result = None, end.value
