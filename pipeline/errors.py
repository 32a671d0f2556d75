"""Every error the service raises on purpose. The docstring is the message, a template for the keyword arguments.

PipelineError
├── InvalidRequest          422  the request is invalid
│   ├── MalformedBody       400
│   ├── InvalidUpload       422
│   ├── AddressRefused      422
│   ├── InvalidOwner        422
│   ├── ConceptNotFound     422
│   └── ImageRefused        422
├── IdempotencyMismatch     422
├── NoImageYet              400
├── Unauthorized            401  no valid API key
├── NotFound                404
│   ├── ImageNotFound       404
│   ├── RegionNotFound      404
│   ├── ModelNotFound       404
│   ├── JobNotFound         404
│   ├── PreviewNotFound     404
│   ├── KeyNotFound         404
│   ├── WebhookNotFound     404
│   ├── DeliveryNotFound    404
│   └── RouteNotFound       404
├── MethodNotAllowed        405
├── Conflict                409
│   ├── JobNotRetriable     409
│   ├── JobEnded            409
│   ├── JobRunning          409
│   ├── WebhookLimitReached 409
│   ├── KeyLimitReached     409
│   ├── KeysNotRequired     409
│   └── LeaseLost           409  never reaches a client
├── BodyTooLarge            413
├── UnsupportedMediaType    415
├── TooManyRequests         429  the service is busy, or an owner is at a limit
│   ├── Overloaded          429
│   ├── QueueFull           429
│   ├── RateLimited         429
│   ├── ConcurrencyLimited  429
│   └── JobLimitReached     429
├── Unavailable             503
│   ├── ModelNotReady       503
│   ├── WorkerLost          503
│   └── StorageUnavailable  503
├── DeadlineExceeded        504
├── StageFailed             500
└── InternalError           500  a defect of the service
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class PipelineError(Exception):
    """Something went wrong."""

    status: ClassVar[int] = 500
    retry_after_s: int | None = None

    def __init__(self, **facts: Any) -> None:
        self.facts = facts
        self.retry_after_s = facts.get("retry_after_s", self.retry_after_s)
        super().__init__(" ".join((type(self).__doc__ or "").split()).format_map(facts))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.facts)

    @property
    def code(self) -> str:
        """The machine-readable name, such as `image_not_found`."""
        return _code(type(self))

    @property
    def title(self) -> str:
        """The human-readable name, such as `Image not found`."""
        return self.code.replace("_", " ").capitalize()


def to_problem(error: PipelineError) -> dict[str, Any]:
    """Convert an error to plain data, to be stored with a failed job."""
    return {
        "code": error.code,
        "title": error.title,
        "status": error.status,
        "detail": str(error),
        "facts": error.facts,
    }


def from_problem(problem: Mapping[str, Any]) -> PipelineError:
    """Recreate the error that `to_problem` converted; an `InternalError` if its class no longer exists."""
    classes = [PipelineError]
    for cls in classes:
        classes += cls.__subclasses__()
    facts = problem["facts"]
    return next((cls(**facts) for cls in classes if _code(cls) == problem["code"]), InternalError(**facts))


def _code(cls: type[PipelineError]) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__).lstrip("_")


def _rebuild(cls: type[PipelineError], facts: dict[str, Any]) -> PipelineError:
    return cls(**facts)


class InvalidRequest(PipelineError):
    """{problem}"""

    status = 422


class MalformedBody(InvalidRequest):
    """The request's body is not JSON this service can read ({problem}). Send one JSON object in UTF-8."""

    status = 400


class InvalidUpload(InvalidRequest):
    """{problem}"""


class InvalidOwner(InvalidRequest):
    """The owner {owner!r} can't be used. Send 1 to 64 letters, digits or any of '.', '_', '-'; the first one must be
    a letter or a digit."""


class ImageRefused(InvalidRequest):
    """The safety checker refused this image. Try another prompt or another seed."""


class ConceptNotFound(InvalidRequest):
    """Nothing in this image looks like {concept!r}. Name something that it shows, or send a mask or a region."""


class AddressRefused(InvalidRequest):
    """{host} is not at a public address, and webhooks go to no others. Send the URL of a receiver that the internet
    can reach, or have the operator allow private addresses (--allow-private-webhooks)."""


class Unauthorized(PipelineError):
    """{problem} Send one that `ai-pipeline keys create` made, as the header `Authorization: Bearer aip_…`."""

    status = 401


class NoImageYet(PipelineError):
    """This session has no image yet. Call /generate first, or send the image_id of an image you made before."""

    status = 400


class NotFound(PipelineError):
    """There is no such thing."""

    status = 404


class ImageNotFound(NotFound):
    """There is no image {image_id!r}. It may have been deleted, or belong to another owner."""


class RegionNotFound(NotFound):
    """There is no region {region_id} in this image. GET /v1/images/{image_id}/regions lists its regions."""


class ModelNotFound(NotFound):
    """There is no model {model!r} here. Send {known}, or leave it out."""


class JobNotFound(NotFound):
    """There is no job {job_id}. It may belong to another owner, or be too old."""


class PreviewNotFound(NotFound):
    """Job {job_id} has no preview now. There is one while it is running, from its first step on."""


class KeyNotFound(NotFound):
    """There is no API key {key_id}. GET /v1/keys lists yours, and `ai-pipeline keys list` those of all owners."""


class Conflict(PipelineError):
    """The request conflicts with the current state."""

    status = 409


class JobNotRetriable(Conflict):
    """The job {job_id} is {state}: only one that failed, was cancelled or is dead can be retried."""


class JobEnded(Conflict):
    """The job {job_id} is {state} and has no result. POST /v1/jobs/{job_id}/retry starts it again."""


class JobRunning(Conflict):
    """The first request with this Idempotency-Key is still in progress. Send it again later for its response,
    or follow the job at /v1/jobs/{job_id}/events."""

    retry_after_s = 1


class LeaseLost(Conflict):
    """This worker has lost its lease on the job {job_id}."""


class IdempotencyMismatch(PipelineError):
    """The Idempotency-Key {key!r} was sent with another request before. Send a new key with a new request."""

    status = 422


class WebhookNotFound(NotFound):
    """There is no webhook {webhook_id}. It may belong to another owner, or be deleted."""


class DeliveryNotFound(NotFound):
    """This webhook has no delivery {delivery_id}. It may be too old."""


class WebhookLimitReached(Conflict):
    """There are {registered} webhooks already, the limit for one owner. Delete one first."""


class KeyLimitReached(Conflict):
    """There are {limit} valid API keys already, the limit for one owner. Revoke one first."""


class KeysNotRequired(Conflict):
    """This service runs without API keys, so none is created or revoked here. Its operator can require keys: create the
    first one by `ai-pipeline keys create`, and start the service with `--keys`."""


class RouteNotFound(NotFound):
    """There is no route {what}. See /docs for all routes."""


class MethodNotAllowed(PipelineError):
    """{what} is not allowed. Send {allowed}."""

    status = 405


class BodyTooLarge(PipelineError):
    """The request's body is larger than {limit_bytes} bytes. Send a smaller one."""

    status = 413


class UnsupportedMediaType(PipelineError):
    """The Content-Type of the request's body is {given}. Send {accepted}."""

    status = 415


class TooManyRequests(PipelineError):
    """There are too many requests. Try again later."""

    status = 429
    retry_after_s = 5


class Overloaded(TooManyRequests):
    """The service already has {waiting} {what} in progress, which is its limit.
    Try again in {retry_after_s} s."""


class QueueFull(TooManyRequests):
    """{waiting} jobs are queued already, which is the limit. Try again in a minute."""

    retry_after_s = 60


class RateLimited(TooManyRequests):
    """You have sent {limit} requests within a minute, which is the rate limit for one owner.
    Try again in {retry_after_s} s."""


class ConcurrencyLimited(TooManyRequests):
    """{limit} of your requests are in flight, which is the limit for one owner.
    Try again once one of them has finished."""

    retry_after_s = 1


class JobLimitReached(TooManyRequests):
    """{limit} of your jobs are unfinished, which is the limit for one owner. Wait for one of them, or cancel it."""


class Unavailable(PipelineError):
    """The service is unavailable. Try again later."""

    status = 503
    retry_after_s = 5


class ModelNotReady(Unavailable):
    """The {model} model is not ready: {reason}"""

    retry_after_s = 10


class WorkerLost(Unavailable):
    """The worker for {stage!r} was lost again and again while working on this request. Try again later."""


class StorageUnavailable(Unavailable):
    """The storage is unreachable or full. Try again later; the service's log has the cause."""


class DeadlineExceeded(PipelineError):
    """The request exceeded its deadline of {deadline_s:g} s and was cancelled. Try again, or send a smaller request."""

    status = 504


class StageFailed(PipelineError):
    """The stage {stage!r} failed: {reason}"""


class InternalError(PipelineError):
    """The request failed because of a defect in the service, whose log has the cause."""
