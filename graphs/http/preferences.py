"""The `Prefer` header (RFC 7240): respond at once, or wait for so many seconds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header, Request
from werkzeug.http import parse_dict_header

RESPOND_ASYNC = "respond-async"
WAIT = "wait"
MAX_WAIT_S = 60

PreferHeader = Annotated[
    str | None,
    Header(
        alias="Prefer",
        description=f"`{RESPOND_ASYNC}` returns the jobs at once. `{WAIT}=10` returns the images if they are there "
        f"within 10 s ({MAX_WAIT_S} at most), else the jobs.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preferences:
    """How a caller wants to wait."""

    respond_async: bool = False
    wait_s: int | None = None  # for the result, before the jobs are returned

    @property
    def applied(self) -> str:
        """The value of the `Preference-Applied` header."""
        return RESPOND_ASYNC if self.wait_s is None else f"{WAIT}={self.wait_s}"


def preferences_of(request: Request) -> Preferences:
    """Return a request's preferences; those that are unknown or malformed are ignored, as the RFC says."""
    headers = [parse_dict_header(re.sub(r";[^,]*", "", header)) for header in request.headers.getlist("prefer")]
    given = {name.lower(): value for header in reversed(headers) for name, value in reversed(header.items())}
    wait = given.get(WAIT) or ""
    return Preferences(
        respond_async=RESPOND_ASYNC in given,
        wait_s=min(int(wait), MAX_WAIT_S) if re.fullmatch(r"[0-9]{1,6}", wait) else None,
    )
