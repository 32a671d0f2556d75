"""Every error the service raises on purpose. The docstring is the message; keyword arguments fill it in.

PipelineError
├── InvalidRequest              422  what was sent can't be used
│   ├── MalformedBody           400
│   ├── InvalidUpload           422
│   └── ImageRefused            422
├── NoImageYet                  400
├── ImageNotFound               404
├── RouteNotFound               404
├── MethodNotAllowed            405
├── BodyTooLarge                413
├── Overloaded                  429  come back later
├── ModelNotReady               503
├── WorkerLost                  503
├── DeadlineExceeded            504
└── StageFailed                 500
"""

from __future__ import annotations

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
        name = type(self).__name__
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")

    @property
    def title(self) -> str:
        """The error's name for people, such as `Image not found`."""
        return self.code.replace("_", " ").capitalize()


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


class ImageRefused(InvalidRequest):
    """The safety checker refused this image. Try another prompt or another seed."""


class NoImageYet(PipelineError):
    """This session has no image yet. Call /generate first, or send the image_id of an image you made before."""

    status = 400


class ImageNotFound(PipelineError):
    """There is no image {image_id!r}. Send the image_id that /generate answered."""

    status = 404


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


class ModelNotReady(PipelineError):
    """The {model} model is not ready: {reason}"""

    status = 503
    retry_after_s = 10


class WorkerLost(PipelineError):
    """The worker for {stage!r} was lost twice while working on this request. Try again."""

    status = 503
    retry_after_s = 5


class DeadlineExceeded(PipelineError):
    """The request was not finished within {deadline_s:g} s and has been stopped. Try again, or ask for less."""

    status = 504


class StageFailed(PipelineError):
    """The stage {stage!r} failed: {reason}"""
