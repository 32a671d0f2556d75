"""The connection to a service: requests with retries, streams that resume, and waiting for what jobs make."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, TypeVar

import httpx
from httpx_sse import EventSource

from ai_pipeline_client import calls, subscription
from ai_pipeline_client.aio.io import Cleanups, Http, Items, Transport, closing, notify, pause
from ai_pipeline_client.calls import Call, Include
from ai_pipeline_client.connection import ConnectionOptions
from ai_pipeline_client.errors import ConnectionFailed, JobCancelled, PipelineError, error_from
from ai_pipeline_client.progress import Reporter
from ai_pipeline_client.results import ENDS, STEPPED, Accepted, Event, Job, Progress
from ai_pipeline_client.retries import Attempts, Retries
from ai_pipeline_client.subscription import Subscription

T = TypeVar("T")

JOB_ENDS = tuple(f"job.{state}" for state in ENDS)


class AsyncConnection:
    """A connection to the service, which all parts of a client share.

    Args:
        options: of every request.
        session: id of the session whose last image each new one becomes; the client's own if None.
        http_client: an httpx client to send with, which isn't closed here; a new one if None.
        transport: of the new one; the network if None.
    """

    def __init__(
        self,
        options: ConnectionOptions,
        session: Optional[str],
        http_client: Optional[Http],
        transport: Optional[Transport],
    ) -> None:
        self._options = options
        self._session = session
        self._http = http_client or Http(transport=transport)
        self._owns_http = http_client is None
        self._cleanups = Cleanups()
        self._answered: List[bool] = []  # not empty once the service has answered; shared by all sessions

    @property
    def server(self) -> str:
        """URL of the service."""
        return self._options.server

    async def aclose(self) -> None:
        """Close the connections, once the jobs of cancelled tasks are cancelled."""
        await self._cleanups.wait()
        if self._owns_http:
            await self._http.aclose()

    def in_session(self, session: str) -> AsyncConnection:
        """Return the same connection in another session."""
        other = copy.copy(self)
        other._session = session
        return other

    def with_retries(self, retries: Retries) -> AsyncConnection:
        """Return the same connection with another retry policy."""
        other = copy.copy(self)
        other._options = replace(self._options, retries=retries)
        return other

    # Requests

    async def send(self, call: Call[T]) -> T:
        """Send a call, with retries, and decode its response."""
        return call.decode(await self._request_until_success(call))

    async def get(self, path: str, read: Callable[[Any], T], params: Optional[Mapping[str, Any]] = None) -> T:
        """Get and decode a JSON value.

        Args:
            path: from the service's root.
            read: decodes the value.
            params: query parameters; those that are None are left out.
        """
        call = Call(
            method="GET",
            path=path,
            read=lambda response: read(response.json()),
            params=calls.query_parameters(params or {}),
        )
        return await self.send(call)

    async def get_bytes(self, path: str, params: Optional[Mapping[str, Any]] = None) -> bytes:
        """Get a picture's encoded bytes."""
        call = Call(
            method="GET",
            path=path,
            read=lambda response: response.content,
            params=calls.query_parameters(params or {}),
        )
        return await self.send(call)

    async def _request_until_success(self, call: Call[Any]) -> httpx.Response:
        """Send a call until it succeeds or the retry policy is exhausted.

        Raises:
            PipelineError: the error of the last attempt.
        """
        attempts = Attempts(call, self._options.retries, has_answered=bool(self._answered))
        while True:
            try:
                response = await self._request(call)
            except httpx.TransportError as failure:
                pause_s = attempts.pause_after(failure)
            else:
                if not response.is_error or response.status_code in call.accepts:
                    return response
                pause_s = attempts.pause_after(response)
            await pause(pause_s)

    async def _request(self, call: Call[Any]) -> httpx.Response:
        """Send a call once; a stream is left to be read, unless it is an error response."""
        request = self._http.build_request(**self._options.request(call, self._session))
        response = await self._http.send(request, stream=call.is_stream)
        self._answered[:] = [True]
        if call.is_stream and response.is_error:
            await response.aread()
        return response

    # Streams

    async def subscribe(self, wanted: Subscription) -> Items[Event]:
        """Yield the events of a stream, over as many connections as it takes."""
        while True:
            try:
                async with self._connected(wanted) as source:
                    async for received in source.aiter_sse():
                        event = wanted.receive(received)
                        if event is not None:
                            yield event
                        if wanted.has_ended:
                            break
            except (PipelineError, httpx.TransportError) as error:
                wanted.fail(error)
            if wanted.problem is not None:
                raise wanted.problem
            if wanted.has_ended:
                return
            await pause(subscription.RESUME_PAUSE_S)

    @asynccontextmanager
    async def _connected(self, wanted: Subscription) -> AsyncIterator[EventSource]:
        """Open one connection of a stream, with retries."""
        call = wanted.call()
        response = await self._request_until_success(call)
        try:
            call.decode(response)
            wanted.connected()
            yield EventSource(response)
        finally:
            await response.aclose()

    # Waiting

    async def generate(
        self, call: Call[Accepted], read: Callable[[Any], T], reporter: Reporter, include: Sequence[Include] = ()
    ) -> List[T]:
        """Submit jobs and wait for their images; an exception or a cancellation cancels the unfinished ones.

        Args:
            call: submits them.
            read: decodes an image.
            reporter: of their progress; it is closed.
            include: what to get of each image.

        Returns:
            The images, in the order of their jobs.
        """
        unfinished: Optional[Dict[str, int]] = None
        try:
            accepted = await self.send(call)
            unfinished = _numbered([job.job_id for job in accepted.jobs])
            for number, job in enumerate(accepted.jobs):
                await notify(reporter, Progress.accepted(job, number))
            return await self._wait(unfinished, read, reporter, include, accepted.request_id)
        except (ConnectionFailed, GeneratorExit):  # nothing can be sent any more
            raise
        except BaseException as reason:  # KeyboardInterrupt as well
            was_refused = unfinished is None and isinstance(reason, PipelineError)
            if not was_refused:
                job_ids = None if unfinished is None else list(unfinished)
                await self._cleanups.run(lambda: self._cancel(call, job_ids))
            raise
        finally:
            reporter.close()

    async def wait(
        self, job_ids: Sequence[str], read: Callable[[Any], T], reporter: Reporter, include: Sequence[Include] = ()
    ) -> List[T]:
        """Wait for the images of jobs, which continue even if the caller stops waiting.

        Args:
            job_ids: ids of the jobs.
            read: decodes an image.
            reporter: of their progress; it is closed.
            include: what to get of each image.

        Returns:
            The images, in the order of their jobs.

        Raises:
            PipelineError: the error that one of them failed with.
        """
        try:
            return await self._wait(_numbered(job_ids), read, reporter, include)
        finally:
            reporter.close()

    async def _wait(
        self,
        unfinished: Dict[str, int],
        read: Callable[[Any], T],
        reporter: Reporter,
        include: Sequence[Include],
        request_id: str = "",
    ) -> List[T]:
        """Wait for the images of jobs.

        Args:
            unfinished: by job id, the numbers of their images; those of jobs that end are removed.
            read: decodes an image.
            reporter: of their progress.
            include: what to get of each image.
            request_id: of the request that submitted them, for error messages.
        """
        made: Dict[int, str] = {}
        if not unfinished:
            return []
        async with closing(self._events_of(list(unfinished))) as events:
            async for event in events:
                number = unfinished.get(event.job_id or "")
                if number is None:
                    continue
                if event.is_step:
                    await notify(reporter, event.progress(number))
                elif event.type in JOB_ENDS:
                    job = await self.send(get_job(str(event.job_id)))  # it may have been retried since
                    if job.has_ended:
                        del unfinished[job.job_id]
                        made[number] = _made_by(job, request_id)
                if not unfinished:
                    break
        params = {"include": list(include) or None}
        return [await self.get(f"/v1/images/{image_id}", read, params) for _, image_id in sorted(made.items())]

    async def _events_of(self, job_ids: Sequence[str]) -> Items[Event]:
        """Yield the events of jobs: a job's own stream; for several, all events from the first job on."""
        first = Subscription(f"/v1/jobs/{min(job_ids)}/events", after=0, is_service_up=True)  # ids sort by time
        wanted, after = first, 0
        if len(job_ids) > 1:
            async with closing(self.subscribe(first)) as events:
                async for submitted in events:
                    after = submitted.sequence - 1 if submitted.sequence else 0
                    break
            wanted = Subscription("/v1/events", after=after, types=[STEPPED, *JOB_ENDS], is_service_up=True)
        async with closing(self.subscribe(wanted)) as events:
            async for event in events:
                yield event

    async def _cancel(self, call: Call[Accepted], job_ids: Optional[Sequence[str]]) -> None:
        """Cancel jobs, without retries: the caller doesn't wait.

        Args:
            call: that submitted them.
            job_ids: theirs; None if they are unknown, as the response was lost.
        """
        if job_ids is None:
            job_ids = []
            with suppress(Exception):  # it may have arrived: sent again with its idempotency key, it returns its jobs
                job_ids = [job.job_id for job in call.decode(await self._request(call)).jobs]
        for job_id in job_ids:
            with suppress(Exception):  # the reason to cancel is raised, and matters more
                await self._request(cancel_job(job_id))


def get_job(job_id: str) -> Call[Job]:
    """Return the call that gets a job."""
    return Call(method="GET", path=f"/v1/jobs/{job_id}", read=calls.read_as(Job))


def cancel_job(job_id: str) -> Call[Job]:
    """Return the call that cancels a job."""
    return Call(method="POST", path=f"/v1/jobs/{job_id}/cancel", read=calls.read_as(Job))


def _numbered(job_ids: Sequence[str]) -> Dict[str, int]:
    return {job_id: number for number, job_id in enumerate(job_ids)}


def _made_by(job: Job, request_id: str) -> str:
    if job.image_id is not None:
        return job.image_id
    if job.problem is not None:
        raise error_from({"request_id": request_id, **job.problem})
    detail = f"The job {job.job_id} is {job.state} and made nothing."
    raise JobCancelled(title="Job cancelled", detail=detail, code="job_cancelled", request_id=request_id)
