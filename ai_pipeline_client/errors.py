"""What can go wrong with a call.

PipelineError
├── InvalidRequest          400, 413, 422 …  what was sent can't be used
├── Unauthorized            401, 403
├── NotFound                404
├── Conflict                409
│   └── JobCancelled        a job that was waited for made nothing: somebody stopped it
├── Overloaded              429  come back later
│   └── RateLimited         for this owner
├── ServiceFailed           500
├── ServiceUnavailable      502, 503, 504, and the proxy's own 500, for a replica that died
├── UnexpectedAnswer        what answers is not the service, or of another age
└── ConnectionFailed        nothing answers, or the answer broke off
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

import httpx

JOB_RUNNING = "job_running"  # the code of an answer to a key whose first request is still being worked on

SHOWN_CHARS = 500  # of what a stranger answers
SERVER_ERRORS = 500
_OWN_LIMITS = frozenset({"too_many_requests", "too_many_at_once", "too_many_unfinished"})


class PipelineError(Exception):
    """The service refused a call, failed, or did not answer.

    Attributes:
        title: the error's name for people.
        detail: a sentence that says what is wrong, and what to do; it is what `str` gives.
        status: of HTTP; None where nothing answered.
        code: the error's name for programs, such as `image_not_found`; empty if what answered has none.
        request_id: by which the service's log knows the request; empty where nothing answered.
        retry_after_s: seconds after which it may go better; None if the answer doesn't say.
        errors: of what could not be read, each `field` with its `problem`.
    """

    is_passing: ClassVar[bool] = False  # whether the same request may go better a little later

    def __init__(
        self,
        *,
        title: str,
        detail: str,
        status: int | None = None,
        code: str = "",
        request_id: str = "",
        retry_after_s: float | None = None,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.title = title
        self.detail = detail
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.errors = tuple(errors)


class InvalidRequest(PipelineError):
    """What was sent can't be used; the detail says what to send instead."""


class Unauthorized(PipelineError):
    """The service wants an API key, or doesn't know this one."""


class NotFound(PipelineError):
    """There is no such thing, or it is somebody else's."""


class Conflict(PipelineError):
    """It doesn't go together with how things stand."""


class JobCancelled(Conflict):
    """The job was cancelled and made nothing."""


class Overloaded(PipelineError):
    """The service has too much to do."""

    is_passing = True


class RateLimited(Overloaded):
    """This owner has taken all that one owner may take."""


class ServiceFailed(PipelineError):
    """Something went wrong within the service."""


class ServiceUnavailable(PipelineError):
    """The service, or one of its models, is not there just now."""

    is_passing = True


class UnexpectedAnswer(PipelineError):
    """The answer can't be read."""


class ConnectionFailed(PipelineError):
    """Nothing answers, or the answer broke off."""

    is_passing = True


def error_of(response: httpx.Response) -> PipelineError:
    """Read an answer that tells of an error: the service's problem, OpenAI's error object, or a proxy's own text."""
    said = _object_in(response)
    retry_after_s = _seconds(response.headers.get("retry-after"))
    request_id = response.headers.get("x-request-id", "")
    if isinstance(error := said.get("error"), dict):  # as OpenAI's routes answer
        said = {"detail": error.get("message"), "code": error.get("code") or error.get("type")}
        said["title"] = str(said["code"] or "").replace("_", " ").capitalize()
    said = {name: value for name, value in said.items() if value is not None}
    about = {
        "title": response.reason_phrase or str(response.status_code),
        "detail": response.text.strip()[:SHOWN_CHARS] or f"The service answered {response.status_code} and no more.",
        "request_id": request_id,
    }
    return error_from({**about, **said, "status": response.status_code}, retry_after_s)


def error_from(problem: Mapping[str, Any], retry_after_s: float | None = None) -> PipelineError:
    """The error that a problem (RFC 9457) tells of."""
    status, code = int(problem.get("status", SERVER_ERRORS)), str(problem.get("code", ""))
    return _class_of(status, code)(
        title=str(problem.get("title", status)),
        detail=str(problem.get("detail", "")),
        status=status,
        code=code,
        request_id=str(problem.get("request_id", "")),
        retry_after_s=retry_after_s,
        errors=problem.get("errors") or (),
    )


def unreachable(error: httpx.TransportError) -> ConnectionFailed:
    """What is to be said of a connection that failed."""
    try:
        url = error.request.url
    except RuntimeError:  # it belongs to no request
        return ConnectionFailed(title="No connection", detail=f"The connection failed: {error}.")
    server = f"{url.scheme}://{url.netloc.decode()}"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        detail = f"Nothing answers at {server}. Is the service running?"
    else:
        detail = f"{server} broke off its answer, or gave none ({type(error).__name__})."
    return ConnectionFailed(title="No connection", detail=detail)


def _class_of(status: int, code: str) -> type[PipelineError]:
    if status == 429:
        return RateLimited if code in _OWN_LIMITS else Overloaded
    if status in (502, 503, 504) or (status == SERVER_ERRORS and not code):
        return ServiceUnavailable
    if status >= SERVER_ERRORS:
        return ServiceFailed
    return {401: Unauthorized, 403: Unauthorized, 404: NotFound, 409: Conflict}.get(status, InvalidRequest)


def _object_in(response: httpx.Response) -> dict[str, Any]:
    try:
        said = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return said if isinstance(said, dict) else {}


def _seconds(said: str | None) -> float | None:
    """Seconds of a Retry-After header: a number of them, or a moment."""
    if said is None:
        return None
    if said.strip().isdecimal():
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None
