"""Every error the service raises on purpose. The docstring is the message; keyword arguments fill it in.

PipelineError
├── InvalidRequest              422  what was sent can't be used
│   ├── MalformedBody           400
│   ├── InvalidUpload           422
│   ├── AddressRefused          422
│   ├── InvalidOwner            422
│   ├── ConceptNotFound         422
│   └── ImageRefused            422
├── Unauthorized                401  who is it?
├── NoImageYet                  400
├── ImageNotFound               404
├── RegionNotFound              404
├── UnknownModel                404
├── JobNotFound                 404
├── KeyNotFound                 404
├── JobNotRetriable             409
├── JobEnded                    409
├── JobRunning                  409
├── LeaseLost                   409  never reaches a client
├── IdempotencyMismatch         422
├── WebhookNotFound             404
├── DeliveryNotFound            404
├── TooManyWebhooks             409
├── RouteNotFound               404
├── MethodNotAllowed            405
├── BodyTooLarge                413
├── Overloaded                  429  come back later
├── TooManyJobs                 429
├── TooManyRequests             429  for this owner
├── TooManyAtOnce               429
├── TooManyUnfinished           429
├── ModelNotReady               503
├── WorkerLost                  503
├── StorageUnavailable          503
├── DeadlineExceeded            504
└── StageFailed                 500
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
        """The error's name for programs, such as `image_not_found`."""
        return _code(type(self))

    @property
    def title(self) -> str:
        """The error's name for people, such as `Image not found`."""
        return self.code.replace("_", " ").capitalize()


def to_problem(error: PipelineError) -> dict[str, Any]:
    """An error as plain data, to be kept with what it ended."""
    return {
        "code": error.code,
        "title": error.title,
        "status": error.status,
        "detail": str(error),
        "facts": error.facts,
    }


def from_problem(problem: Mapping[str, Any]) -> PipelineError:
    """The error that `to_problem` wrote down; a plain one if its class is gone."""
    classes = [PipelineError]
    for cls in classes:
        classes += cls.__subclasses__()
    facts = problem["facts"]
    return next((cls(**facts) for cls in classes if _code(cls) == problem["code"]), PipelineError(**facts))


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


class ImageNotFound(PipelineError):
    """There is no image {image_id!r}. Send the image_id that /generate answered."""

    status = 404


class RegionNotFound(PipelineError):
    """There is no region {region}: this image has {regions}, numbered from 0."""

    status = 404


class UnknownModel(PipelineError):
    """There is no model {model!r} here. Send {known}, or leave it out."""

    status = 404


class JobNotFound(PipelineError):
    """There is no job {job_id}. It may be somebody else's, or too old."""

    status = 404


class KeyNotFound(PipelineError):
    """There is no API key {key_id}. `ai-pipeline keys list` names all there are."""

    status = 404


class JobNotRetriable(PipelineError):
    """The job {job_id} is {state}: only one that failed, was cancelled or is dead can be retried."""

    status = 409


class JobEnded(PipelineError):
    """The job {job_id} is {state} and made nothing. POST /v1/jobs/{job_id}/retry begins it again."""

    status = 409


class JobRunning(PipelineError):
    """The first request with this Idempotency-Key is still being worked on. Send it again later for its answer,
    or follow the job at /v1/jobs/{job_id}/events."""

    status = 409
    retry_after_s = 1


class LeaseLost(PipelineError):
    """The job {job_id} is not this worker's any more."""

    status = 409


class IdempotencyMismatch(PipelineError):
    """The Idempotency-Key {key!r} was sent with another request before. Send a new key with a new request."""

    status = 422


class WebhookNotFound(PipelineError):
    """There is no webhook {webhook_id}. It may be somebody else's, or deleted."""

    status = 404


class DeliveryNotFound(PipelineError):
    """This webhook has no delivery {delivery_id}. It may be too old."""

    status = 404


class TooManyWebhooks(PipelineError):
    """There are {registered} webhooks already, which is all an owner may have. Delete one first."""

    status = 409


class RouteNotFound(PipelineError):
    """There is nothing at {what}. See /docs for what there is."""

    status = 404


class MethodNotAllowed(PipelineError):
    """{what} is not possible. Send {allowed}."""

    status = 405


class BodyTooLarge(PipelineError):
    """The request's body is larger than {limit_bytes} bytes. Send a smaller one."""

    status = 413


class Overloaded(PipelineError):
    """The service already has {waiting} {what} to work on, which is all it takes at a time.
    Try again in {retry_after_s} s."""

    status = 429


class TooManyJobs(PipelineError):
    """{waiting} jobs wait already, which is all the service keeps. Try again in a minute."""

    status = 429
    retry_after_s = 60


class TooManyRequests(PipelineError):
    """You have sent {limit} requests within a minute, which is all that one owner may send.
    Try again in {retry_after_s} s."""

    status = 429


class TooManyAtOnce(PipelineError):
    """{limit} of your requests are being answered, which is all that one owner may have at a time.
    Try again once one of them is finished."""

    status = 429
    retry_after_s = 1


class TooManyUnfinished(PipelineError):
    """{limit} of your jobs are unfinished, which is all that one owner may have. Wait for one of them, or cancel it."""

    status = 429
    retry_after_s = 5


class ModelNotReady(PipelineError):
    """The {model} model is not ready: {reason}"""

    status = 503
    retry_after_s = 10


class WorkerLost(PipelineError):
    """The worker for {stage!r} was lost again and again while working on this request. Try again later."""

    status = 503
    retry_after_s = 5


class StorageUnavailable(PipelineError):
    """The storage can't be reached, or takes nothing more. Try again later; the service's log says what is wrong."""

    status = 503
    retry_after_s = 5


class DeadlineExceeded(PipelineError):
    """The request was not finished within {deadline_s:g} s and has been stopped. Try again, or ask for less."""

    status = 504


class StageFailed(PipelineError):
    """The stage {stage!r} failed: {reason}"""
