"""What a client does, said without doing it: scripts decide, the clients act.

A script is a generator that yields acts and is sent their results, or thrown their failures. So retries, streams that
are resumed and images that are waited for are written once, for clients that block and for those that don't.
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
    """A request and what its answer means. As an act: send it, patiently."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    files: Mapping[str, bytes] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True  # whether it may be sent again when nobody knows whether it has arrived
    is_stream: bool = False  # whether its answer stays open, to be read event by event
    quiet_s: float | None = None  # how long a stream may say nothing; as the service promises, if None


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Send a call once; the result is the answer, whatever it says."""

    call: Call[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """Read the next event of the stream that is open; the result is None at its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Close:
    """Close the stream that is open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tell:
    """Call somebody back."""

    callback: Callable[[Progress], object]
    progress: Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Emit:
    """Hand an item to whoever iterates."""

    item: Any


Act: TypeAlias = Call[Any] | Request | Read | Close | Pause | Tell | Emit
Script: TypeAlias = Generator[Act, Any, T]


@dataclass(frozen=True, slots=True)
class Items(Generic[T]):
    """A script that emits items."""

    script: Script[None]


def send(call: Call[T]) -> Script[T]:
    """The script of sending one call."""
    answer: T = yield call
    return answer


class Play(Generic[T]):
    """How far a script has come.

    Attributes:
        act: what is to be done next; None at the script's end.
        result: what the script returned, at its end.
    """

    act: Act | None
    result: T

    def __init__(self, script: Script[T]) -> None:
        self._script = script
        self._go(lambda: next(script))

    def go_on(self, result: Any) -> None:
        """Tell the script what the act resulted in."""
        self._go(lambda: self._script.send(result))

    def fail(self, error: BaseException) -> None:
        """Tell the script that the act failed; raises the error if the script can't do anything about it."""
        self._go(lambda: self._script.throw(error))

    def _go(self, further: Callable[[], Act]) -> None:
        try:
            self.act = further()
        except StopIteration as end:
            self.act, self.result = None, end.value
