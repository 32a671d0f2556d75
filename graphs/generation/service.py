"""Generation service: every image is a job, whether its caller waits for it, streams it, or comes back for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from graphs.concurrency import AdmissionLimiter, last_item, merge, task_group
from graphs.events.feed import EventFeed
from graphs.generation.generate_image import GENERATE, GenerateImageJob
from graphs.generation.job_worker import JobWorker
from graphs.generation.requests import GenerationJobSpec
from graphs.images import ImageRepository
from graphs.workers.handles import Workers
from pipeline.answer_warnings import warnings_of
from pipeline.errors import JobEnded, JobRunning, from_problem
from pipeline.events import Event
from pipeline.jobs import ENDED, PREVIEWS, IdempotencyKey, Job, JobOrder, JobState, Submitted
from pipeline.notices import Notice
from pipeline.records import AnswerWarning, Description, GenerationRequest, ImageRecord
from pipeline.settings import Profile, ServiceSettings
from pipeline.store import Store, new_id
from pipeline.traces import Traces, here, span

LONG_LIFE = 1000  # notices of one job


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedImage:
    """A new image and what it shows."""

    record: ImageRecord
    request: GenerationRequest
    png: bytes
    description: Description
    warnings: tuple[AnswerWarning, ...]
    request_id: str  # of the request it was made for


class GenerationService:
    """The images that are being made.

    Args:
        gate: bounds the requests that wait for an image.
        describe: classifies an image for a request, maybe in the background.
        emit: takes every event.
    """

    def __init__(
        self,
        *,
        settings: ServiceSettings,
        profile: Profile,
        workers: Workers,
        store: Store,
        gallery: ImageRepository,
        feed: EventFeed,
        gate: AdmissionLimiter,
        describe: Callable[[ImageRecord, str, bool], Coroutine[Any, Any, Description]],
        emit: Callable[[Event], None],
        traces: Traces,
    ) -> None:
        self.gate = gate
        self.jobs = JobWorker(
            store.jobs,
            GenerateImageJob(workers, gallery, feed, emit, traces).run,
            capacity=settings.admission.max_generations,
            max_waiting=settings.admission.max_waiting_jobs,
            max_unfinished=settings.limits.unfinished_jobs,
        )
        self._profile = profile
        self._store = store
        self._gallery = gallery
        self._feed = feed
        self._describe = describe

    async def generate(self, order: GenerationJobSpec) -> GeneratedImage:
        """Make an image as `make` does, and describe it."""
        made: GeneratedImage = await last_item(self.generating(order, tell=False))
        return made

    async def generating(
        self, order: GenerationJobSpec, *, tell: bool = True
    ) -> AsyncGenerator[Notice | GeneratedImage, None]:
        """Make an image and describe it; yields what happens on the way, if one wants to be told, the image last."""
        async with aclosing(self._making(order, tell=tell, previews=tell)) as items:
            async for item in items:
                yield await self._generated(item) if isinstance(item, Job) else item

    async def make(self, orders: Sequence[GenerationJobSpec]) -> list[ImageRecord]:
        """Make the images of one request, and keep each as the last one of its sessions.

        Each is a job. It stops with the caller, unless it has a key by which the caller may come back for it.

        Raises:
            Overloaded: too many images are waiting already.
            IdempotencyMismatch: the key was used for another request.
            JobRunning: the key was used for this request, which isn't finished.
            JobEnded: somebody cancelled it.
            ModelNotReady, StageFailed, WorkerLost: from the workers.
        """
        made: list[ImageRecord] = await last_item(self.making(orders, tell=False))
        return made

    async def making(
        self, orders: Sequence[GenerationJobSpec], *, tell: bool = True, previews: bool = True
    ) -> AsyncGenerator[Notice | list[ImageRecord], None]:
        """Make images as `make` does; yields what happens on the way, if one wants to be told, the images last.

        Args:
            previews: whether what happens is to be seen as well.
        """
        jobs: dict[str, Job] = {}
        numbers: dict[str, int] = {}
        streams = [self._making(order, tell=tell, previews=tell and previews) for order in orders]
        async with aclosing(merge(streams)) as items:
            async for number, item in items:
                if isinstance(item, Job):
                    jobs[item.job_id] = item
                    numbers[item.job_id] = number
                else:
                    yield item
        in_turn = sorted(jobs.values(), key=lambda job: numbers[job.job_id])
        yield [await self._record(job) for job in in_turn]

    async def _making(
        self, order: GenerationJobSpec, *, tell: bool, previews: bool
    ) -> AsyncGenerator[Notice | Job, None]:
        owner = order.owner
        if order.key is not None and (made := await self._made_before(owner, order.key)):
            yield made
            return
        job_id = new_id()
        with self.gate.admit(order.request_id):
            async with AsyncExitStack() as stack:
                notices: AsyncIterator[Notice] | None = None
                if tell:
                    stream = await stack.enter_async_context(self._feed.stream(owner, job_id=job_id))
                    notices = await stack.enter_async_context(aclosing(stream.notices()))
                accepted = await self._submit(order, job_id, previews=previews, is_waited_for=True)
                job = accepted.job
                if not accepted.is_new and not job.state.is_final:
                    raise JobRunning(job_id=job.job_id)
                try:
                    if notices is not None and job.job_id == job_id:  # else it was done for the same key meanwhile
                        async for notice in notices:
                            yield notice
                            if notice.type in ENDED:
                                break
                    job = await self.jobs.wait_finished(job.job_id, owner)
                except (asyncio.CancelledError, GeneratorExit):
                    if order.key is None:
                        await asyncio.shield(self.jobs.cancel(job.job_id, owner))
                    raise
            yield job

    async def ordered(self, owner: str, key: IdempotencyKey | None) -> GenerationRequest | None:
        """What a key's first image was asked for, so that it is asked for alike again; None if the key is new.

        Raises:
            IdempotencyMismatch: the key was used for another request.
        """
        job = None if key is None else await self.jobs.find_by_key(owner, key)
        return None if job is None else GenerationRequest.from_dict(job.order.request)

    async def submit(self, orders: Sequence[GenerationJobSpec]) -> list[Job]:
        """Accept the making of a request's images as jobs, and don't wait for them; all or none, but for a key's.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            TooManyJobs, TooManyUnfinished: too many wait already.
        """
        jobs: list[Job] = []
        try:
            for order in orders:
                jobs.append((await self._submit(order, new_id(), previews=True)).job)  # noqa: PERF401  # what was accepted counts
        except BaseException:
            for order, job in zip(orders, jobs, strict=False):
                if order.key is None:
                    await asyncio.shield(self.jobs.cancel(job.job_id, order.owner))
            raise
        return jobs

    async def follow(self, job_id: str, owner: str, after: int = 0) -> AsyncGenerator[Notice, None]:
        """Yield what happens to a job from a sequence number on, until it has ended.

        Raises:
            JobNotFound: the owner has no such job.
        """
        if (await self.jobs.get(job_id, owner)).state.is_final:
            for notice in await self._logged(job_id, owner, after):
                yield notice
            return
        async with aclosing(self._feed.follow(owner, after=after, job_id=job_id)) as notices:
            async for notice in notices:
                yield notice
                if notice.type in ENDED and (await self.jobs.get(job_id, owner)).state.is_final:
                    for later in await self._logged(job_id, owner, notice.sequence or 0):  # of another try since
                        yield later
                    return

    async def following(self, job_id: str, owner: str, after: int = 0) -> AsyncGenerator[Notice | GeneratedImage, None]:
        """Yield what happens to a job from a sequence number on, and what it made last; a stream that is cut just ends.

        Raises:
            JobNotFound: the owner has no such job.
            JobEnded: it made nothing; it was cancelled or is dead.
            PipelineError: what it failed with.
        """
        has_ended = (await self.jobs.get(job_id, owner)).state.is_final
        async with aclosing(self.follow(job_id, owner, after)) as notices:
            async for notice in notices:
                yield notice
                has_ended = has_ended or notice.type in ENDED
        if has_ended:
            yield await self._generated(await self.jobs.wait_finished(job_id, owner), background=True)

    async def _logged(self, job_id: str, owner: str, after: int) -> Sequence[Notice]:
        read = partial(self._store.log.read, owner=owner, after=after, limit=LONG_LIFE, job_id=job_id)
        return await asyncio.to_thread(read)

    async def _made_before(self, owner: str, key: IdempotencyKey) -> Job | None:
        job = await self.jobs.find_by_key(owner, key)
        if job is None or job.is_worth_repeating:
            return None
        if not job.state.is_final:
            raise JobRunning(job_id=job.job_id)
        if job.state is JobState.DEAD:  # it may be what kills its workers: only who says so begins it again
            raise JobEnded(job_id=job.job_id, state=job.state.value)
        return job

    async def _submit(
        self, order: GenerationJobSpec, job_id: str, *, previews: bool, is_waited_for: bool = False
    ) -> Submitted:
        job = JobOrder(
            job_id=job_id,
            kind=GENERATE,
            owner=order.owner,
            request_id=order.request_id,
            request=asdict(order.request) | {PREVIEWS: previews} | here().carried,
            sessions=tuple(order.sessions),
            is_waited_for=is_waited_for,
        )
        with span("accept job", job_id=job_id):
            return await self.jobs.submit(job, order.key)

    async def _generated(self, job: Job, *, background: bool = False) -> GeneratedImage:
        """What a settled job made, described; in the background, that needs no admission. Raises as `_record` does."""
        record = await self._record(job)
        async with task_group() as group:
            reading = group.create_task(self._gallery.png(record))
            describing = group.create_task(self._describe(record, job.order.request_id, background))
        request, description = GenerationRequest.from_dict(job.order.request), describing.result()
        return GeneratedImage(
            record=record,
            request=request,
            png=reading.result(),
            description=description,
            warnings=warnings_of(self._profile, request, description),
            request_id=job.order.request_id,
        )

    async def _record(self, job: Job) -> ImageRecord:
        """The image a settled job made.

        Raises:
            JobEnded: none; it was cancelled or is dead.
            PipelineError: what it failed with.
        """
        if job.result is None:
            raise from_problem(job.problem) if job.problem else JobEnded(job_id=job.job_id, state=job.state.value)
        return await self._gallery.find(job.result["image_id"], owner=job.order.owner, session="")
