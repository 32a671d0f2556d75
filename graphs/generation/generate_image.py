"""The generation job: denoises, publishes each step, and stores the image in the transaction that completes the job."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict
from datetime import UTC, datetime

from opentelemetry.trace import get_current_span

from graphs.concurrency import AdmissionLimiter
from graphs.events.feed import EventFeed
from graphs.generation.edits import EditRequests
from graphs.images import ImageRepository
from graphs.workers.handles import WorkerDied, Workers
from pipeline.errors import StageFailed, WorkerLost
from pipeline.event_records import STEPPED, EventRecord
from pipeline.events import DomainEvent, GenerationStarted, GenerationStepped, PreviewShown, StageRetried
from pipeline.imaging.codecs import encode_png
from pipeline.jobs import MAX_ATTEMPTS, PREVIEWS, TRACEPARENT, Job, Lease
from pipeline.records import Computed, GenerationRequest, ImageRecord, Pixels, StepProgress
from pipeline.traces import Traces, within

GENERATE = "generate"  # the kind of job that makes an image


class GenerateImageJob:
    """Makes an image.

    Args:
        emit: takes every event.
        traces: goes on with those of the requests that ordered the images, in whichever process they were.
    """

    def __init__(
        self,
        workers: Workers,
        images: ImageRepository,
        edits: EditRequests,
        analysis_admission: AdmissionLimiter,
        feed: EventFeed,
        emit: Callable[[DomainEvent], None],
        traces: Traces,
    ) -> None:
        self._workers = workers
        self._images = images
        self._edits = edits
        self._analysis_admission = analysis_admission
        self._feed = feed
        self._emit = emit
        self._traces = traces

    async def run(self, job: Job, lease: Lease) -> None:
        """Run a job; its image and its success are stored in one transaction.

        Raises:
            WorkerLost: the worker died.
            ImageNotFound: the image it was to be made from is gone.
            LeaseLost: another holder has the lease by now.
        """
        continued = self._traces.continued(
            job.order.request.get(TRACEPARENT, ""),
            f"stage {GENERATE}",
            request_id=job.order.request_id,
            job_id=job.job_id,
            attempt=lease.attempt,
        )
        with continued as context, within(context):
            await self._generate(job, lease)

    async def _generate(self, job: Job, lease: Lease) -> None:
        request, request_id = GenerationRequest.from_dict(job.order.request), job.order.request_id
        started = time.monotonic()
        record = None
        if request.source is not None:
            record = await self._images.find(request.source.image_id, owner=job.order.owner, session="")
            if job.area is not None:
                with self._analysis_admission.hold(request_id):  # the job was admitted: its area isn't refused any more
                    request = await self._edits.within(request, job.area, record, request_id)
        self._emit(
            GenerationStarted(
                request_id=request_id,
                width=request.width,
                height=request.height,
                num_steps=request.steps,
                waited_s=job.age_s,
            )
        )
        try:
            image = await self._denoise(request, record, job)
        except WorkerDied:
            if lease.attempt < MAX_ATTEMPTS:
                get_current_span().add_event("worker lost", {"stage": GENERATE})
                self._emit(StageRetried(request_id=request_id, stage=GENERATE))
            raise WorkerLost(stage=GENERATE) from None
        await self._images.add(
            image.value,
            owner=job.order.owner,
            sessions=job.order.sessions,
            request_id=request_id,
            started=started,
            request=request,
            model=image.model,
            lease=lease,
            annotations=job.annotations,
        )

    async def _denoise(self, request: GenerationRequest, record: ImageRecord | None, job: Job) -> Computed[Pixels]:
        """Make the image of a request, from the image of a record if there is one."""
        image: Computed[Pixels] | None = None
        source = None if record is None else await self._images.share(record)
        previews, seen = bool(job.order.request.get(PREVIEWS)), False
        async with aclosing(self._workers.generate(request, job.order.owner, source, previews)) as items:
            async for item in items:
                if isinstance(item, StepProgress):
                    if item.preview is not None and not seen:
                        self._emit(PreviewShown(request_id=job.order.request_id, seconds=job.age_s))
                        seen = True
                    await self._publish_step(item, job)
                else:
                    image = item
        if image is None:
            raise StageFailed(stage=GENERATE, reason="the stream ended without an image")
        return image

    async def _publish_step(self, progress: StepProgress, job: Job) -> None:
        stepped = GenerationStepped(
            request_id=job.order.request_id,
            step=progress.step,
            num_steps=progress.num_steps,
        )
        self._emit(stepped)
        if job.order.is_waited_for and not self._feed.has_readers:
            return
        preview = None if progress.preview is None else await asyncio.to_thread(_as_base64, progress.preview)
        self._feed.publish(
            EventRecord(
                sequence=None,
                type=STEPPED,
                owner=job.order.owner,
                image_id=None,
                job_id=job.job_id,
                payload=asdict(stepped) | {"preview": preview},
                created_at=datetime.now(UTC),
            )
        )


def _as_base64(preview: Pixels) -> str:
    return b64encode(encode_png(preview)).decode()
