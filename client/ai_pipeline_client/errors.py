"""Errors of a call.

PipelineError
├── InvalidRequest          400, 415, 422 …  the request is invalid
│   ├── ImageRefused        the safety checker refused the image
│   └── RequestTooLarge     413
├── Unauthorized            401, 403
├── NotFound                404
├── Conflict                409
│   ├── JobCancelled        the job waited for was cancelled and made nothing
│   └── LimitReached        as many as this owner may have, such as webhooks
├── Overloaded              429  retry later
│   └── RateLimited         a limit of this owner
│       └── QuotaExceeded   too many unfinished jobs of this owner
├── ServiceFailed           500
├── ServiceUnavailable      502, 503, 504, and the proxy's own 500, for a replica that died
│   └── DeadlineExceeded    504; also a Timeout
├── UnexpectedAnswer        the response is not the service's, or another version's
├── ConnectionFailed        no connection, or the response broke off
│   └── ResponseTimeout     the response didn't come in time; also a Timeout
└── Timeout                 any of these, or the service isn't ready in time
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Dict, Optional, Tuple, Type

import httpx

JOB_RUNNING = "job_running"  # the code of a response while the first request with its idempotency key is in progress

SHOWN_CHARS = 500  # of a response's body that isn't the service's
SERVER_ERRORS = 500


class PipelineError(Exception):
    """The service refused a call, failed, or did not answer.

    Attributes:
        title: the error's human-readable name.
        detail: a sentence on what is wrong, and what to do. `str` returns it with code, status and request id.
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
        status: Optional[int] = None,
        code: str = "",
        request_id: str = "",
        retry_after_s: Optional[float] = None,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.title = title
        self.detail = detail
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.errors: Tuple[Mapping[str, str], ...] = tuple(errors)

    def __str__(self) -> str:
        name = self.code or self.title
        head = f"{name} ({self.status}): " if self.status is not None else ""
        return f"{head}{self.detail}" + (f" [request {self.request_id}]" if self.request_id else "")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> Tuple[Any, ...]:
        return _rebuilt, (type(self), {name: value for name, value in vars(self).items() if name in _FIELDS})


class InvalidRequest(PipelineError):
    """The request is invalid; the detail explains what to send instead."""


class ImageRefused(InvalidRequest):
    """The safety checker refused the image; another seed or prompt may pass."""


class RequestTooLarge(InvalidRequest):
    """The request's body is larger than the service takes."""


class Unauthorized(PipelineError):
    """The service requires an API key, or doesn't accept this one."""


class NotFound(PipelineError):
    """There is no such resource, or it belongs to another owner."""


class Conflict(PipelineError):
    """The request conflicts with the current state of its resource."""


class JobCancelled(Conflict):
    """The job was cancelled and made nothing."""


class LimitReached(Conflict):
    """This owner has as many as allowed, such as webhooks: delete one first."""


class Overloaded(PipelineError):
    """The service is overloaded."""

    is_passing = True


class RateLimited(Overloaded):
    """This owner has reached its rate limit, or its limit of concurrent requests or unfinished jobs."""


class QuotaExceeded(RateLimited):
    """This owner has too many unfinished jobs: wait until some have ended, or cancel them."""


class Timeout(PipelineError):
    """Something did not happen in time: a response, a result, or that the service is ready."""


class ServiceFailed(PipelineError):
    """The service failed with an internal error."""


class ServiceUnavailable(PipelineError):
    """The service, or one of its models, is temporarily unavailable."""

    is_passing = True


class DeadlineExceeded(ServiceUnavailable, Timeout):
    """The service didn't finish in time, by its own deadline."""


class UnexpectedAnswer(PipelineError):
    """The response can't be decoded."""


class ConnectionFailed(PipelineError):
    """There is no connection, or the response broke off."""

    is_passing = True


class ResponseTimeout(ConnectionFailed, Timeout):
    """The response did not come within the client's timeout."""


_FIELDS = ("title", "detail", "status", "code", "request_id", "retry_after_s", "errors")

_BY_CODE: Dict[str, Type[PipelineError]] = {
    "image_refused": ImageRefused,
    "body_too_large": RequestTooLarge,
    "webhook_limit_reached": LimitReached,
    "rate_limited": RateLimited,
    "concurrency_limited": RateLimited,
    "job_limit_reached": QuotaExceeded,
    "deadline_exceeded": DeadlineExceeded,
}
_BY_STATUS: Dict[int, Type[PipelineError]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    413: RequestTooLarge,
    429: Overloaded,
    502: ServiceUnavailable,
    503: ServiceUnavailable,
    504: DeadlineExceeded,
}


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


def error_from(problem: Mapping[str, Any], retry_after_s: Optional[float] = None) -> PipelineError:
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
    if isinstance(error, httpx.ReadTimeout):
        detail = f"{server} gave no answer in time. The client's timeout says how long it waits."
        return ResponseTimeout(title="No answer in time", detail=detail)
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        detail = f"Nothing answers at {server}. Is the service running?"
    else:
        detail = f"{server} broke off its answer, or gave none ({type(error).__name__})."
    return ConnectionFailed(title="No connection", detail=detail)


def _class_of(status: int, code: str) -> Type[PipelineError]:
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status == SERVER_ERRORS and not code:
        return ServiceUnavailable
    return _BY_STATUS.get(status, ServiceFailed if status >= SERVER_ERRORS else InvalidRequest)


def _rebuilt(kind: Type[PipelineError], facts: Mapping[str, Any]) -> PipelineError:
    """Return an error that was pickled."""
    return kind(**facts)


def _object_in(response: httpx.Response) -> Dict[str, Any]:
    try:
        body = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return body if isinstance(body, dict) else {}


def _seconds(header: Optional[str]) -> Optional[float]:
    """Return the seconds of a Retry-After header, which holds a number of them or a date."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
