"""Making images: every one is a job, whether somebody waits for it, follows it, or comes back for it later."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from graphs.admission import Gate
from graphs.feed import Feed
from graphs.gallery import Gallery
from graphs.job_runner import JobRunner
from graphs.together import together
from graphs.workers import WorkerDied, Workers
from pipeline import images
from pipeline.errors import JobEnded, JobRunning, StageFailed, WorkerLost, from_problem
from pipeline.events import Event, GenerationStarted, GenerationStepped, StageRetried
from pipeline.jobs import ENDED, MAX_ATTEMPTS, IdempotencyKey, Job, JobOrder, JobState, Lease, Submitted
from pipeline.notices import STEPPED, Notice
from pipeline.records import Computed, Description, GenerationRequest, ImageRecord, Pixels, StepProgress
from pipeline.settings import ServiceSettings
from pipeline.store import Store, new_id

GENERATE = "generate"  # the kind of job that makes an image
LONG_LIFE = 1000  # notices of one job


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageOrder:
    """A wanted image, and for whom."""

    request: GenerationRequest
    owner: str
    sessions: Sequence[str]  # whose last image it becomes
    request_id: str
    key: IdempotencyKey | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedImage:
    """A new image and what it shows."""

    record: ImageRecord
    request: GenerationRequest
    png: bytes
    description: Description
    request_id: str  # of the request it was made for


class Generations:
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
        workers: Workers,
        store: Store,
        gallery: Gallery,
        feed: Feed,
        gate: Gate,
        describe: Callable[[ImageRecord, str, bool], Coroutine[Any, Any, Description]],
        emit: Callable[[Event], None],
    ) -> None:
        self.gate = gate
        self.jobs = JobRunner(
            store.jobs,
            self._do,
            capacity=settings.admission.max_generations,
            max_waiting=settings.admission.max_waiting_jobs,
            max_unfinished=settings.limits.unfinished_jobs,
        )
        self._workers = workers
        self._store = store
        self._gallery = gallery
        self._feed = feed
        self._describe = describe
        self._emit = emit

    async def generate(self, order: ImageOrder) -> GeneratedImage:
        """Make an image, keep it as the last one of its sessions, and describe it.

        The work is a job. It stops with the caller, unless it has a key by which the caller may come back for it.

        Raises:
            Overloaded: too many images are waiting already.
            IdempotencyMismatch: the key was used for another request.
            JobRunning: the key was used for this request, which isn't finished.
            JobEnded: somebody cancelled it.
            ModelNotReady, StageFailed, WorkerLost: from the workers.
        """
        made: GeneratedImage | None = None
        async with aclosing(self.generating(order, tell=False)) as items:
            async for item in items:
                made = item if isinstance(item, GeneratedImage) else made
        if made is None:
            raise StageFailed(stage="generate", reason="nothing was made")
        return made

    async def generating(
        self, order: ImageOrder, *, tell: bool = True
    ) -> AsyncGenerator[Notice | GeneratedImage, None]:
        """Make an image as `generate` does; yields what happens on the way, if one wants to be told, the image last."""
        owner = order.owner
        if order.key is not None and (made := await self._made_before(owner, order.key)):
            yield await self._generated(made)
            return
        job_id = new_id()
        with self.gate.entered(order.request_id):
            async with AsyncExitStack() as stack:
                notices: AsyncIterator[Notice] | None = None
                if tell:
                    stream = await stack.enter_async_context(self._feed.stream(owner, job_id=job_id))
                    notices = await stack.enter_async_context(aclosing(stream.notices()))
                accepted = await self._submit(order, job_id, is_waited_for=True)
                job = accepted.job
                if not accepted.is_new and not job.state.is_final:
                    raise JobRunning(job_id=job.job_id)
                try:
                    if notices is not None and job.job_id == job_id:  # else it was done for the same key meanwhile
                        async for notice in notices:
                            yield notice
                            if notice.type in ENDED:
                                break
                    job = await self.jobs.settled(job.job_id, owner)
                except (asyncio.CancelledError, GeneratorExit):
                    if order.key is None:
                        await asyncio.shield(self.jobs.cancel(job.job_id, owner))
                    raise
            yield await self._generated(job)

    async def submit(self, order: ImageOrder) -> Job:
        """Accept the making of an image as a job, and don't wait for it.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            TooManyJobs: too many wait already.
        """
        return (await self._submit(order, new_id())).job

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
        """Yield what happens to a job from a sequence number on, and what it made last.

        Raises:
            JobNotFound: the owner has no such job.
            JobEnded: it made nothing; it was cancelled or is dead.
            PipelineError: what it failed with.
        """
        async with aclosing(self.follow(job_id, owner, after)) as notices:
            async for notice in notices:
                yield notice
        yield await self._generated(await self.jobs.settled(job_id, owner), background=True)

    async def _logged(self, job_id: str, owner: str, after: int) -> Sequence[Notice]:
        read = partial(self._store.log.read, owner=owner, after=after, limit=LONG_LIFE, job_id=job_id)
        return await asyncio.to_thread(read)

    async def _made_before(self, owner: str, key: IdempotencyKey) -> Job | None:
        job = await self.jobs.known(owner, key)
        if job is None or job.is_worth_repeating:
            return None
        if not job.state.is_final:
            raise JobRunning(job_id=job.job_id)
        if job.state is JobState.DEAD:  # it may be what kills its workers: only who says so begins it again
            raise JobEnded(job_id=job.job_id, state=job.state.value)
        return job

    async def _submit(self, order: ImageOrder, job_id: str, *, is_waited_for: bool = False) -> Submitted:
        job = JobOrder(
            job_id=job_id,
            kind=GENERATE,
            owner=order.owner,
            request_id=order.request_id,
            request=asdict(order.request),
            sessions=tuple(order.sessions),
            is_waited_for=is_waited_for,
        )
        return await self.jobs.submit(job, order.key)

    async def _generated(self, job: Job, *, background: bool = False) -> GeneratedImage:
        """What a settled job made; in the background, describing it needs no admission.

        Raises:
            JobEnded: nothing; it was cancelled or is dead.
            PipelineError: what it failed with.
        """
        if job.result is None:
            raise from_problem(job.problem) if job.problem else JobEnded(job_id=job.job_id, state=job.state.value)
        record = await self._gallery.find(job.result["image_id"], owner=job.order.owner, session="")
        async with together() as group:
            reading = group.create_task(self._gallery.png(record))
            describing = group.create_task(self._describe(record, job.order.request_id, background))
        return GeneratedImage(
            record=record,
            request=GenerationRequest.from_dict(job.order.request),
            png=reading.result(),
            description=describing.result(),
            request_id=job.order.request_id,
        )

    async def _do(self, job: Job, lease: Lease) -> None:
        """Do a job; its image and its success are kept together."""
        request, request_id = GenerationRequest.from_dict(job.order.request), job.order.request_id
        started = time.monotonic()
        self._emit(
            GenerationStarted(
                request_id=request_id, width=request.width, height=request.height, num_steps=request.steps
            )
        )
        try:
            image = await self._denoise(request, job)
        except WorkerDied:
            if lease.attempt < MAX_ATTEMPTS:
                self._emit(StageRetried(request_id=request_id, stage=GENERATE))
            raise WorkerLost(stage=GENERATE) from None
        await self._gallery.keep(
            image.value,
            owner=job.order.owner,
            sessions=job.order.sessions,
            request_id=request_id,
            started=started,
            request=request,
            model=image.model,
            lease=lease,
        )

    async def _denoise(self, request: GenerationRequest, job: Job) -> Computed[Pixels]:
        image: Computed[Pixels] | None = None
        async with aclosing(self._workers.generate(request, job.order.owner)) as items:
            async for item in items:
                if isinstance(item, StepProgress):
                    await self._tell_step(item, job)
                else:
                    image = item
        if image is None:
            raise StageFailed(stage=GENERATE, reason="the stream ended without an image")
        return image

    async def _tell_step(self, progress: StepProgress, job: Job) -> None:
        stepped = GenerationStepped(
            request_id=job.order.request_id,
            step=progress.step,
            num_steps=progress.num_steps,
            preview=progress.preview,
        )
        self._emit(stepped)
        if not self._feed.has_readers:
            return
        preview = None if progress.preview is None else await asyncio.to_thread(_as_base64, progress.preview)
        self._feed.publish(
            Notice(
                sequence=None,
                type=STEPPED,
                owner=job.order.owner,
                image_id=None,
                job_id=job.job_id,
                payload=asdict(replace(stepped, preview=None)) | {"preview": preview},
                created_at=datetime.now(UTC),
            )
        )


def _as_base64(preview: Pixels) -> str:
    return b64encode(images.encode_png(preview)).decode()
