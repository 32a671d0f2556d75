"""`client.jobs`: the jobs that make images."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import List, Optional, Union

from ai_pipeline_client import calls
from ai_pipeline_client.aio.connection import AsyncConnection, cancel_job, get_job
from ai_pipeline_client.aio.image import AsyncImage
from ai_pipeline_client.aio.io import Items, closing
from ai_pipeline_client.aio.legacy import AsyncCallableJobs
from ai_pipeline_client.calls import Call, Include, Order, id_of
from ai_pipeline_client.decoding import decoded
from ai_pipeline_client.picture import Picture
from ai_pipeline_client.progress import Reporter
from ai_pipeline_client.results import FINISHED, Event, Job, JobState, OnProgress, Page
from ai_pipeline_client.subscription import Subscription

PAGE = 20
FULL_PAGE = 100

JobOrId = Union[Job, str]


class AsyncJobs(AsyncCallableJobs):
    """Your jobs. Every method raises `PipelineError`."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__(connection)
        self._connection = connection

    async def get(self, job: JobOrId) -> Job:
        """Get a job and its state.

        Args:
            job: the job, or its id.

        Raises:
            NotFound: there is no such job.
        """
        return await self._connection.send(get_job(id_of(job, "job")))

    async def list(
        self,
        *,
        states: Sequence[JobState] = (),
        request_id: Optional[str] = None,
        created_after: Optional[datetime] = None,
        created_before: Optional[datetime] = None,
        order: Optional[Order] = None,
    ) -> Items[Job]:
        """Iterate over jobs, newest first, over as many pages as it takes.

        Args:
            states: only these, such as "running" and "dead".
            request_id: only those that this request submitted.
            created_after: submitted then or later; UTC, if it has no time zone.
            created_before: submitted before.
            order: "desc" for newest first, "asc" for oldest first.
        """
        after: Optional[str] = None
        while True:
            page = await self.page(
                limit=FULL_PAGE,
                after=after,
                states=states,
                request_id=request_id,
                created_after=created_after,
                created_before=created_before,
                order=order,
            )
            for job in page:
                yield job
            after = page.next
            if after is None:
                return

    async def page(
        self,
        *,
        limit: int = PAGE,
        after: Optional[str] = None,
        states: Sequence[JobState] = (),
        request_id: Optional[str] = None,
        created_after: Optional[datetime] = None,
        created_before: Optional[datetime] = None,
        order: Optional[Order] = None,
    ) -> Page[Job]:
        """Get one page of the list; the further arguments are those of `list`.

        Args:
            limit: maximum number, 1 to 100.
            after: the `next` of the page before.
        """
        params = {
            "limit": limit,
            "after": after,
            "state": list(states),
            "request_id": request_id,
            "created_after": created_after,
            "created_before": created_before,
            "order": order,
        }
        call = Call(
            method="GET",
            path="/v1/jobs",
            read=calls.read_page(partial(decoded, Job), "jobs"),
            params=calls.query_parameters(params),
        )
        return await self._connection.send(call)

    async def preview(self, job: JobOrId) -> Picture:
        """Get the newest preview of a running job.

        Args:
            job: the job, or its id.

        Raises:
            NotFound: there is none.
        """
        return Picture(await self._connection.get_bytes(f"/v1/jobs/{id_of(job, 'job')}/preview.png"))

    async def cancel(self, job: JobOrId) -> Job:
        """Cancel a job; one that has ended stays as it is, and one that is running stops soon after.

        Args:
            job: the job, or its id.
        """
        return await self._connection.send(cancel_job(id_of(job, "job")))

    async def retry(self, job: JobOrId) -> Job:
        """Retry a job that failed, was cancelled or is dead.

        Args:
            job: the job, or its id.

        Raises:
            Conflict: it is none of these.
        """
        path = f"/v1/jobs/{id_of(job, 'job')}/retry"
        call = Call(method="POST", path=path, read=calls.read_as(Job), is_repeatable=False)
        return await self._connection.send(call)

    async def wait(
        self,
        *jobs: JobOrId,
        include: Sequence[Include] = (),
        progress: bool = False,
        on_progress: Optional[OnProgress] = None,
    ) -> List[AsyncImage]:
        """Wait for the images of jobs, which continue even if the caller stops waiting.

        Args:
            jobs: the jobs, or their ids.
            include: what to get of each image at once: its content, labels, regions.
            progress: whether to show a bar on stderr, if it is a terminal.
            on_progress: called after each step.

        Returns:
            The images, in the order of the jobs.

        Raises:
            PipelineError: the error that one of them failed with.
            JobCancelled: one of them was cancelled.
        """
        job_ids = [id_of(job, "job") for job in jobs]
        read = partial(AsyncImage.of, self._connection)
        return await self._connection.wait(job_ids, read, Reporter(on_progress, progress), include)

    async def stream(self, job: JobOrId, *, after: Union[int, str] = 0) -> Items[Event]:
        """Iterate over a job's events until it has ended; the last one is `generation.finished`.

        Args:
            job: the job, or its id.
            after: the last event received; from the job's beginning if left out.

        Raises:
            PipelineError: the error that the job failed with, or that it was cancelled.
        """
        wanted = Subscription(f"/v1/jobs/{id_of(job, 'job')}/events", after=after)
        async with closing(self._connection.subscribe(wanted)) as events:
            async for event in events:
                yield event
                if event.type == FINISHED:
                    return
