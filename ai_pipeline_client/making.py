"""Generate images and wait for them; iterate over paginated lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias, TypeVar, Unpack

from ai_pipeline_client import calls
from ai_pipeline_client.acts import Call, Close, Emit, Items, Request, Script, Tell, send
from ai_pipeline_client.calls import Filter, Parameters
from ai_pipeline_client.errors import ConnectionFailed, JobCancelled, PipelineError, error_from
from ai_pipeline_client.listening import Listening
from ai_pipeline_client.results import ENDS, STEPPED, Accepted, Event, Image, Job, Page, Progress

T = TypeVar("T")

OnProgress: TypeAlias = Callable[[Progress], object]  # may be a coroutine function for the asyncio client

FULL_PAGE = 100
JOB_ENDS = tuple(f"job.{state}" for state in ENDS)


def generate(
    prompt: str, *, n: int = 1, on_progress: OnProgress | None = None, **parameters: Unpack[Parameters]
) -> Script[tuple[Image, ...]]:
    """Generate images from a prompt and wait for them. An exception or a cancellation cancels their jobs.

    Args:
        n: number of images, 1 to 10.
        on_progress: progress callback, called when each image is accepted, as its step 0, and for each step with its
            preview. Steps are not stored: those missed while disconnected are not delivered later.
        parameters: see `Parameters`.

    Returns:
        The images in the order of their seeds.

    Raises:
        PipelineError: the service refuses, or one image failed, in which case the others are cancelled.
        ConnectionFailed: the connection is lost. Accepted jobs continue.
    """
    return Making(on_progress).made(calls.create(prompt, n=n, **parameters))


def variations(
    image_id: str,
    *,
    prompt: str | None = None,
    strength: float = 0.6,
    n: int = 1,
    on_progress: OnProgress | None = None,
    **parameters: Unpack[Parameters],
) -> Script[tuple[Image, ...]]:
    """Generate variations of an image, as `generate` does; the arguments are those of `create_variations`."""
    wanted = calls.create_variations(image_id, prompt=prompt, strength=strength, n=n, **parameters)
    return Making(on_progress).made(wanted)


def edits(
    image_id: str,
    prompt: str,
    *,
    mask: bytes | None = None,
    region: int | None = None,
    concept: str | None = None,
    strength: float = 1.0,
    n: int = 1,
    on_progress: OnProgress | None = None,
    **parameters: Unpack[Parameters],
) -> Script[tuple[Image, ...]]:
    """Edit a part of an image, as `generate` does; the arguments are those of `create_edits`."""
    wanted = calls.create_edits(
        image_id, prompt, mask=mask, region=region, concept=concept, strength=strength, n=n, **parameters
    )
    return Making(on_progress).made(wanted)


def wait(job_ids: Sequence[str], *, on_progress: OnProgress | None = None) -> Script[tuple[Image, ...]]:
    """Wait for the images of jobs, which continue even if the caller stops waiting.

    Raises:
        PipelineError: the error that one of them failed with.
    """
    return Making(on_progress).waited(job_ids)


def every_image(**wanted: Unpack[Filter]) -> Items[Image]:
    """Iterate over all images, newest first.

    Args:
        wanted: see `Filter`.
    """
    return Items(_all_of(lambda before: calls.images(limit=FULL_PAGE, before=before, **wanted)))


def every_job(*, states: Sequence[str] = ()) -> Items[Job]:
    """Iterate over all jobs, newest first.

    Args:
        states: only these, such as "running" and "dead".
    """
    return Items(_all_of(lambda before: calls.jobs(limit=FULL_PAGE, before=before, states=states)))


class Making:
    """The images of one call.

    Args:
        on_progress: progress callback.
    """

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._accepted: Accepted | None = None
        self._numbers: dict[str, int] = {}  # image numbers of the unfinished jobs, by job id

    def made(self, call: Call[Accepted]) -> Script[tuple[Image, ...]]:
        """Submit their jobs and wait for them; an exception or a cancellation cancels the unfinished ones."""
        try:
            self._accepted = yield from send(call)
            jobs = self._accepted.jobs
            for number, job in enumerate(jobs):
                yield from self._report(Progress.accepted(job, number))
            return (yield from self.waited([job.job_id for job in jobs], self._accepted.request_id))
        except (ConnectionFailed, GeneratorExit):  # nothing can be sent any more
            raise
        except BaseException as reason:
            yield from self._cancel_unfinished(call, reason)
            raise

    def waited(self, job_ids: Sequence[str], request_id: str = "") -> Script[tuple[Image, ...]]:
        """Wait for them.

        Args:
            request_id: of the request that submitted them, for error messages.
        """
        self._numbers = {job_id: number for number, job_id in enumerate(job_ids)}
        made: dict[int, str] = {}
        if not job_ids:
            return ()
        listening = yield from self._begin()
        while self._numbers:
            event = yield from listening.next()
            if event is None or (number := self._numbers.get(event.job_id or "")) is None:
                continue
            if event.is_step:
                yield from self._report(event.progress(number))
            elif event.type in JOB_ENDS:
                job = yield from send(calls.job(str(event.job_id)))  # it may have been retried since
                if job.has_ended:
                    del self._numbers[job.job_id]
                    made[number] = _made_by(job, request_id)
        yield Close()
        images = []
        for _, image_id in sorted(made.items()):
            images.append((yield from send(calls.image(image_id))))
        return tuple(images)

    def _report(self, progress: Progress) -> Script[None]:
        if self._on_progress is not None:
            yield Tell(callback=self._on_progress, progress=progress)

    def _begin(self) -> Script[Listening]:
        """Subscribe to the events of all of them: a job's own stream; for several, all events from the first job on."""
        first = Listening(f"/v1/jobs/{min(self._numbers)}/events", after=0, was_heard=True)  # ids sort by time
        if len(self._numbers) == 1:
            return first
        submitted: Event | None = yield from first.next()
        yield Close()
        after = submitted.sequence - 1 if submitted is not None and submitted.sequence else 0
        return Listening("/v1/events", after=after, types=[STEPPED, *JOB_ENDS], was_heard=True)

    def _cancel_unfinished(self, call: Call[Accepted], reason: BaseException) -> Script[None]:
        """Cancel the unfinished jobs, without retries: the caller doesn't wait."""
        yield Close()
        if self._accepted is None:
            if isinstance(reason, PipelineError):
                return  # refused
            with suppress(Exception):  # it may have arrived: sent again with its idempotency key, it returns its jobs
                self._numbers = {job.job_id: 0 for job in call.read((yield Request(call=call))).jobs}
        for job_id in self._numbers:
            with suppress(Exception):
                yield Request(call=calls.cancel(job_id))


def _made_by(job: Job, request_id: str) -> str:
    if job.image_id is not None:
        return job.image_id
    if job.problem is not None:
        raise error_from({"request_id": request_id, **job.problem})
    detail = f"The job {job.job_id} is {job.state} and made nothing."
    raise JobCancelled(title="Job cancelled", detail=detail, code="job_cancelled", request_id=request_id)


def _all_of(page_before: Callable[[str | None], Call[Page[T]]]) -> Script[None]:
    before: str | None = None
    while True:
        page = yield from send(page_before(before))
        for item in page:
            yield Emit(item=item)
        if page.next is None:
            return
        before = page.next
