"""Generation service: every image is a job, whether its caller waits, streams, or polls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial

from graphs.analysis.runner import StageRunner
from graphs.concurrency import AdmissionLimiter, merge, task_group
from graphs.events.feed import EventFeed
from graphs.generation.generate_image import GENERATE
from graphs.generation.job_worker import JobWorker
from graphs.generation.requests import GenerationJobSpec
from graphs.images import ImageRepository
from pipeline.answer_warnings import warnings_of
from pipeline.errors import JobEnded, JobRunning, PipelineError, from_problem
from pipeline.event_records import EventRecord
from pipeline.jobs import ANNOTATIONS, AREA, ENDED, PREVIEWS, IdempotencyKey, Job, JobOrder, JobState, Submitted
from pipeline.records import AnswerWarning, Description, GenerationRequest, ImageRecord
from pipeline.settings import Profile
from pipeline.store import new_id
from pipeline.store.log import EventLog
from pipeline.traces import propagation, span

MAX_JOB_NOTICES = 1000  # logged of one job


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedImage:
    """An image that a job made."""

    record: ImageRecord
    request: GenerationRequest
    request_id: str  # of the request it was made for
    description: Description | None  # of the whole image, if the caller wants it


class GenerationService:
    """Makes images as jobs.

    Args:
        jobs: runs them.
        log: has the events of jobs that have ended.
        stages: describes new images.
        admission: bounds the requests that wait for an image.
    """

    def __init__(
        self,
        *,
        profile: Profile,
        jobs: JobWorker,
        images: ImageRepository,
        feed: EventFeed,
        log: EventLog,
        stages: StageRunner,
        admission: AdmissionLimiter,
    ) -> None:
        self.admission = admission
        self._profile = profile
        self._jobs = jobs
        self._images = images
        self._feed = feed
        self._log = log
        self._stages = stages

    async def submit(self, specs: Sequence[GenerationJobSpec]) -> list[Job]:
        """Accept the images of a request as jobs, and return at once; all or none, except those with a key.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            QueueFull, JobLimitReached: too many wait already.
        """
        jobs: list[Job] = []
        try:
            for spec in specs:
                jobs.append((await self._submit(spec, new_id(), previews=True)).job)  # noqa: PERF401  # what was accepted counts
        except BaseException:
            for spec, job in zip(specs, jobs, strict=False):
                if spec.key is None:
                    await asyncio.shield(self._jobs.cancel(job.job_id, spec.owner))
            raise
        return jobs

    async def run(self, specs: Sequence[GenerationJobSpec], *, describe: bool = False) -> list[GeneratedImage]:
        """Make the images of one request, and return them in order.

        Each is a job. It is cancelled with its caller, unless it has an idempotency key.

        Args:
            describe: whether to classify each.

        Raises:
            Overloaded: too many images are waiting already.
            IdempotencyMismatch: the key was used for another request.
            JobRunning: the key was used for this request, which isn't finished.
            JobEnded: it was cancelled.
            ModelNotReady, StageFailed, WorkerLost: from the workers.
        """
        async with task_group() as group:
            tasks = [group.create_task(self._run_job(spec)) for spec in specs]
        return await self._all_generated([task.result() for task in tasks], describe=describe)

    async def finished_within(self, jobs: Sequence[Job], seconds: float) -> list[GeneratedImage] | None:
        """Return what jobs have made, once all have ended; None if they haven't within so many seconds.

        Raises:
            JobEnded: one was cancelled or is dead.
            PipelineError: what one failed with; the others go on.
        """
        try:
            async with asyncio.timeout(seconds), task_group() as group:
                tasks = [group.create_task(self._jobs.wait_finished(job.job_id, job.order.owner)) for job in jobs]
        except TimeoutError:
            return None
        return await self._all_generated([task.result() for task in tasks], describe=False)

    async def stream(
        self, specs: Sequence[GenerationJobSpec], *, previews: bool = True, describe: bool = False
    ) -> AsyncGenerator[EventRecord | list[GeneratedImage], None]:
        """Make images as `run` does; yield their events, and the images last.

        Args:
            previews: whether steps carry previews.
        """
        jobs: dict[int, Job] = {}  # by number of the spec
        async with aclosing(merge([self._stream_job(spec, previews=previews) for spec in specs])) as items:
            async for number, item in items:
                if isinstance(item, Job):
                    jobs[number] = item
                else:
                    yield item
        yield await self._all_generated([jobs[number] for number in range(len(specs))], describe=describe)

    async def stream_job(
        self, job_id: str, owner: str, after: int = 0
    ) -> AsyncGenerator[EventRecord | GeneratedImage, None]:
        """Yield a job's events from a sequence number on, and the described image last.

        A stream that is cut off by the end of this process just ends.

        Raises:
            JobNotFound: the owner has no such job.
            JobEnded: it made nothing; it was cancelled or is dead.
            PipelineError: what it failed with.
        """
        has_ended = (await self._jobs.get(job_id, owner)).state.is_final
        async with aclosing(self._job_records(job_id, owner, after)) as records:
            async for record in records:
                yield record
                has_ended = has_ended or record.type in ENDED
        if has_ended:
            yield await self._generated(await self._jobs.wait_finished(job_id, owner), describe=True)

    async def find_request(self, owner: str, key: IdempotencyKey | None) -> GenerationRequest | None:
        """Return the request of a key's first image, so that a repetition reuses its random seed; None if it is new.

        Raises:
            IdempotencyMismatch: the key was used for another request.
        """
        job = None if key is None else await self._jobs.find_by_key(owner, key)
        return None if job is None else GenerationRequest.from_dict(job.order.request)

    async def _run_job(self, spec: GenerationJobSpec) -> Job:
        if finished := await self._finished_before(spec):
            return finished
        async with self._submitted(spec, new_id(), previews=False) as job:
            return await self._jobs.wait_finished(job.job_id, spec.owner)

    async def _stream_job(self, spec: GenerationJobSpec, *, previews: bool) -> AsyncGenerator[EventRecord | Job, None]:
        if finished := await self._finished_before(spec):
            yield finished
            return
        job_id = new_id()
        async with AsyncExitStack() as stack:
            subscription = await stack.enter_async_context(self._feed.stream(spec.owner, job_id=job_id))
            records = await stack.enter_async_context(aclosing(subscription.records()))
            job = await stack.enter_async_context(self._submitted(spec, job_id, previews=previews))
            if job.job_id == job_id:  # else it was done for the same key meanwhile
                async for record in records:
                    yield record
                    if record.type in ENDED:
                        break
            yield await self._jobs.wait_finished(job.job_id, spec.owner)

    @asynccontextmanager
    async def _submitted(self, spec: GenerationJobSpec, job_id: str, *, previews: bool) -> AsyncIterator[Job]:
        """Submit a job with a waiting caller; cancel it with the caller, unless it has an idempotency key.

        Raises:
            JobRunning: the key was used for this request meanwhile, which isn't finished.
        """
        with self.admission.admit(spec.request_id):
            submitted = await self._submit(spec, job_id, previews=previews, is_waited_for=True)
            job = submitted.job
            if not submitted.is_new and not job.state.is_final:
                raise JobRunning(job_id=job.job_id)
            try:
                yield job
            except (asyncio.CancelledError, GeneratorExit):
                if spec.key is None:
                    await asyncio.shield(self._jobs.cancel(job.job_id, spec.owner))
                raise

    async def _job_records(self, job_id: str, owner: str, after: int = 0) -> AsyncGenerator[EventRecord, None]:
        """Yield a job's events from a sequence number on, until it has ended."""
        if (await self._jobs.get(job_id, owner)).state.is_final:
            for record in await self._logged_records(job_id, owner, after):
                yield record
            return
        async with aclosing(self._feed.follow(owner, after=after, job_id=job_id)) as records:
            async for record in records:
                yield record
                if record.type in ENDED and (await self._jobs.get(job_id, owner)).state.is_final:
                    for later in await self._logged_records(
                        job_id, owner, record.sequence or 0
                    ):  # of another try since
                        yield later
                    return

    async def _logged_records(self, job_id: str, owner: str, after: int) -> Sequence[EventRecord]:
        read = partial(self._log.read, owner=owner, after=after, limit=MAX_JOB_NOTICES, job_id=job_id)
        return await asyncio.to_thread(read)

    async def _finished_before(self, spec: GenerationJobSpec) -> Job | None:
        """Return the job that the spec's key was used for, if it has ended for good."""
        job = None if spec.key is None else await self._jobs.find_by_key(spec.owner, spec.key)
        if job is None or job.is_worth_repeating:
            return None
        if not job.state.is_final:
            raise JobRunning(job_id=job.job_id)
        if job.state is JobState.DEAD:  # it may be what kills its workers: only an explicit retry begins it again
            raise JobEnded(job_id=job.job_id, state=job.state.value)
        return job

    async def _submit(
        self, spec: GenerationJobSpec, job_id: str, *, previews: bool, is_waited_for: bool = False
    ) -> Submitted:
        order = JobOrder(
            job_id=job_id,
            kind=GENERATE,
            owner=spec.owner,
            request_id=spec.request_id,
            request=asdict(spec.request)
            | {PREVIEWS: previews, ANNOTATIONS: asdict(spec.annotations), AREA: spec.area and asdict(spec.area)}
            | propagation(),
            sessions=tuple(spec.sessions),
            is_waited_for=is_waited_for,
        )
        with span("accept job", job_id=job_id):
            return await self._jobs.submit(order, spec.key)

    async def _all_generated(self, jobs: Sequence[Job], *, describe: bool) -> list[GeneratedImage]:
        """Return the images that the finished jobs of one request made.

        Raises:
            PipelineError: what one failed with; its `image_ids` are those of the images that were made.
        """
        try:
            return [await self._generated(job, describe=describe) for job in jobs]
        except PipelineError as error:
            if len(jobs) > 1:
                error.facts["image_ids"] = [job.result["image_id"] for job in jobs if job.result]
            raise

    async def _generated(self, job: Job, *, describe: bool) -> GeneratedImage:
        """Return the image that a finished job made.

        Raises:
            JobEnded: none; it was cancelled or is dead.
            PipelineError: what it failed with.
        """
        if job.result is None:
            raise from_problem(job.problem) if job.problem else JobEnded(job_id=job.job_id, state=job.state.value)
        request_id = job.order.request_id
        record = await self._images.find(job.result["image_id"], owner=job.order.owner, session="")
        description = None
        if describe:
            with self.admission.hold(request_id):  # the image exists: its description isn't refused any more
                description = await self._stages.describe(record, request_id, is_admitted=True)
        return GeneratedImage(
            record=record,
            request=GenerationRequest.from_dict(job.order.request),
            request_id=request_id,
            description=description,
        )

    def warnings(self, generated: GeneratedImage) -> tuple[AnswerWarning, ...]:
        """Return the warnings of a new image."""
        return warnings_of(self._profile, generated.request, generated.description)

    def job_warnings(self, job: Job) -> tuple[AnswerWarning, ...]:
        """Return the warnings of the image that a job makes, from its request."""
        if job.order.kind != GENERATE:
            return ()
        return warnings_of(self._profile, GenerationRequest.from_dict(job.order.request))
