"""Errors of a call.

PipelineError
├── InvalidRequest          400, 413, 422 …  the request is invalid
├── Unauthorized            401, 403
├── NotFound                404
├── Conflict                409
│   └── JobCancelled        the job waited for was cancelled and made nothing
├── Overloaded              429  retry later
│   └── RateLimited         a limit of this owner
├── ServiceFailed           500
├── ServiceUnavailable      502, 503, 504, and the proxy's own 500, for a replica that died
├── UnexpectedAnswer        the response is not the service's, or another version's
└── ConnectionFailed        no connection, or the response broke off
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

import httpx

JOB_RUNNING = "job_running"  # the code of a response while the first request with its idempotency key is in progress

SHOWN_CHARS = 500  # of a response's body that isn't the service's
SERVER_ERRORS = 500
_OWN_LIMITS = frozenset({"rate_limited", "concurrency_limited", "job_limit_reached"})


class PipelineError(Exception):
    """The service refused a call, failed, or did not answer.

    Attributes:
        title: the error's human-readable name.
        detail: a sentence on what is wrong, and what to do; returned by `str`.
        status: HTTP status; None without a response.
        code: the error's machine-readable name, such as `image_not_found`; empty if the response has none.
        request_id: the request's id in the service's log; empty without a response.
        retry_after_s: seconds to wait before a retry; None if the response doesn't specify it.
        errors: the invalid fields, each `field` with its `problem`.
    """

    is_passing: ClassVar[bool] = False  # whether the error is transient: the same request may succeed a little later

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
    """The request is invalid; the detail explains what to send instead."""


class Unauthorized(PipelineError):
    """The service requires an API key, or doesn't accept this one."""


class NotFound(PipelineError):
    """There is no such resource, or it belongs to another owner."""


class Conflict(PipelineError):
    """The request conflicts with the current state of its resource."""


class JobCancelled(Conflict):
    """The job was cancelled and made nothing."""


class Overloaded(PipelineError):
    """The service is overloaded."""

    is_passing = True


class RateLimited(Overloaded):
    """This owner has reached its rate limit, or its limit of concurrent requests or unfinished jobs."""


class ServiceFailed(PipelineError):
    """The service failed with an internal error."""


class ServiceUnavailable(PipelineError):
    """The service, or one of its models, is temporarily unavailable."""

    is_passing = True


class UnexpectedAnswer(PipelineError):
    """The response can't be decoded."""


class ConnectionFailed(PipelineError):
    """There is no connection, or the response broke off."""

    is_passing = True


def error_of(response: httpx.Response) -> PipelineError:
    """Decode an error response: the service's problem document, OpenAI's error object, or a proxy's own text."""
    problem = _object_in(response)
    retry_after_s = _seconds(response.headers.get("retry-after"))
    request_id = response.headers.get("x-request-id", "")
    if isinstance(error := problem.get("error"), dict):  # as OpenAI's routes respond
        problem = {"detail": error.get("message"), "code": error.get("code") or error.get("type")}
        problem["title"] = str(problem["code"] or "").replace("_", " ").capitalize()
    problem = {name: value for name, value in problem.items() if value is not None}
    defaults = {
        "title": response.reason_phrase or str(response.status_code),
        "detail": response.text.strip()[:SHOWN_CHARS] or f"The service answered {response.status_code} and no more.",
        "request_id": request_id,
    }
    return error_from({**defaults, **problem, "status": response.status_code}, retry_after_s)


def error_from(problem: Mapping[str, Any], retry_after_s: float | None = None) -> PipelineError:
    """Return the error for a problem document (RFC 9457)."""
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
    """Return the error for a failed connection."""
    try:
        url = error.request.url
    except RuntimeError:  # it has no request
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
        body = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return body if isinstance(body, dict) else {}


def _seconds(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which holds a number of them or a date."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
