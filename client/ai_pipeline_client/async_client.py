"""The client: every call of the API, and waiting for what its jobs make."""

# client.py is generated from this file: python -m scripts.write_client

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, Self, TypeVar, Unpack

import httpx
from httpx_sse import EventSource

from ai_pipeline_client import calls, subscription
from ai_pipeline_client.async_io import Cleanups, Http, Items, Transport, closing, notify, pause
from ai_pipeline_client.calls import Call, Filter, MaskForm, Parameters, Point, creation, creation_of_edits
from ai_pipeline_client.connection import http_options, request_options
from ai_pipeline_client.errors import ConnectionFailed, JobCancelled, PipelineError, error_from
from ai_pipeline_client.results import (
    ENDS,
    FINISHED,
    STEPPED,
    About,
    Accepted,
    Analysis,
    Concepts,
    Event,
    Image,
    Job,
    OnProgress,
    Page,
    Progress,
    Segment,
    Uploaded,
    Visualization,
)
from ai_pipeline_client.retries import Attempts, Retries
from ai_pipeline_client.subscription import Subscription

T = TypeVar("T")

PAGE = 20
FULL_PAGE = 100
JOB_ENDS = tuple(f"job.{state}" for state in ENDS)


class AsyncClient:
    """A client of the service: `AsyncClient` for asyncio, or `Client`, which blocks and is thread-safe.

    Close it, or use it in a `with`; `AsyncClient` in an `async with`. Every method raises `PipelineError`. Transient
    failures are retried, see `Retries`; a call that creates something is sent with an Idempotency-Key of its own, so
    that a retry does nothing twice. An `on_progress` of `AsyncClient` may be a coroutine function. To leave one of its
    iterations early, use `contextlib.aclosing`.

    Args:
        server: the service's URL.
        api_key: for a service that requires one.
        session: id of the session whose last image each new one becomes; the client's own if left out.
        retries: the retry policy.
        transport: httpx transport; the network if left out.
    """

    def __init__(
        self,
        server: str,
        *,
        api_key: str | None = None,
        session: str | None = None,
        retries: Retries | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._http = Http(transport=transport, **http_options(server, api_key))
        self._session = session
        self._retries = retries or Retries()
        self._cleanups = Cleanups()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close its connections, once the jobs of cancelled tasks are cancelled."""
        await self._cleanups.wait()
        await self._http.aclose()

    def in_session(self, session: str) -> Self:
        """Return the same client, its connections shared, in another session."""
        other = copy.copy(self)
        other._session = session
        return other

    async def about(self) -> About:
        """Get the service's status and device, and the profile's defaults and limits."""
        return await self._get("/", About)

    # Generation

    async def generate(
        self, prompt: str, *, n: int = 1, on_progress: OnProgress | None = None, **parameters: Unpack[Parameters]
    ) -> tuple[Image, ...]:
        """Generate images from a prompt and wait for them. An exception or a cancellation cancels their jobs.

        Args:
            n: number of images, 1 to 10.
            on_progress: progress callback, called when each image is accepted, as its step 0, and for each step with
                its preview. Steps are not stored: those missed while disconnected are not delivered later.
            parameters: see `Parameters`.

        Returns:
            The images in the order of their seeds.

        Raises:
            PipelineError: the service refuses, or one image failed, in which case the others are cancelled.
            ConnectionFailed: the connection is lost. Accepted jobs continue.
        """
        return await self._generate(creation("/v1/images", {"prompt": prompt, "n": n, **parameters}), on_progress)

    async def create(self, prompt: str, *, n: int = 1, **parameters: Unpack[Parameters]) -> Accepted:
        """Submit the generation of images from a prompt, without waiting for them.

        Args:
            n: number of images, 1 to 10.
            parameters: see `Parameters`.
        """
        return await self.send(creation("/v1/images", {"prompt": prompt, "n": n, **parameters}))

    async def variations(
        self,
        image_id: str,
        *,
        prompt: str | None = None,
        strength: float = 0.6,
        n: int = 1,
        on_progress: OnProgress | None = None,
        **parameters: Unpack[Parameters],
    ) -> tuple[Image, ...]:
        """Generate variations of an image, as `generate` does; the arguments are those of `create_variations`."""
        body = {"prompt": prompt, "strength": strength, "n": n, **parameters}
        return await self._generate(creation(f"/v1/images/{image_id}/variations", body), on_progress)

    async def create_variations(
        self,
        image_id: str,
        *,
        prompt: str | None = None,
        strength: float = 0.6,
        n: int = 1,
        **parameters: Unpack[Parameters],
    ) -> Accepted:
        """Submit the generation of variations of an image, without waiting for them.

        Args:
            prompt: the image's own if None, or what it shows.
            strength: how much may change, above 0 to 1.
            n: number of images, 1 to 10.
            parameters: see `Parameters`.
        """
        body = {"prompt": prompt, "strength": strength, "n": n, **parameters}
        return await self.send(creation(f"/v1/images/{image_id}/variations", body))

    async def edits(
        self,
        image_id: str,
        prompt: str,
        *,
        mask: bytes | None = None,
        region: int | None = None,
        concept: str | None = None,
        points: Sequence[Point] = (),
        box: tuple[float, float, float, float] | None = None,
        strength: float = 1.0,
        n: int = 1,
        on_progress: OnProgress | None = None,
        **parameters: Unpack[Parameters],
    ) -> tuple[Image, ...]:
        """Edit a part of an image, as `generate` does; the arguments are those of `create_edits`."""
        body = {"prompt": prompt, "strength": strength, "n": n, **parameters}
        call = creation_of_edits(image_id, mask=mask, region=region, concept=concept, points=points, box=box, **body)
        return await self._generate(call, on_progress)

    async def create_edits(
        self,
        image_id: str,
        prompt: str,
        *,
        mask: bytes | None = None,
        region: int | None = None,
        concept: str | None = None,
        points: Sequence[Point] = (),
        box: tuple[float, float, float, float] | None = None,
        strength: float = 1.0,
        n: int = 1,
        **parameters: Unpack[Parameters],
    ) -> Accepted:
        """Submit an edit of a part of an image, without waiting for it; of all of it, if no part is given.

        Args:
            mask: a PNG of the image's size, white where it may change.
            region: or the `region_id` of a region, whatever found it.
            concept: or what to find and change, such as "apple".
            points: or points of a region, each x, y, and False for one that lies outside of it.
            box: or a box around it, x0, y0, x1, y1; also together with points.
            strength: how much may change there, above 0 to 1.
            n: number of images, 1 to 10.
            parameters: see `Parameters`.
        """
        body = {"prompt": prompt, "strength": strength, "n": n, **parameters}
        return await self.send(
            creation_of_edits(image_id, mask=mask, region=region, concept=concept, points=points, box=box, **body)
        )

    async def wait(self, job_ids: Sequence[str], *, on_progress: OnProgress | None = None) -> tuple[Image, ...]:
        """Wait for the images of jobs, which continue even if the caller stops waiting.

        Raises:
            PipelineError: the error that one of them failed with.
        """
        return await self._wait(_numbered(job_ids), on_progress)

    # Images

    async def upload(self, picture: bytes) -> Uploaded:
        """Upload a picture: PNG, JPEG or WebP."""
        call = Call(
            method="POST",
            path="/v1/images/upload",
            read=calls.read_as(Uploaded),
            files={"file": picture},
            headers=calls.idempotency_header(),
        )
        return await self.send(call)

    async def images(self, *, limit: int = PAGE, before: str | None = None, **wanted: Unpack[Filter]) -> Page[Image]:
        """List images, newest first.

        Args:
            limit: maximum number, 1 to 100.
            before: the `next` of the previous page.
            wanted: see `Filter`.
        """
        params = calls.query_parameters({"limit": limit, "before": before, **wanted})
        read = calls.read_page(Image, "images")
        return await self.send(Call(method="GET", path="/v1/images", read=read, params=params))

    async def every_image(self, **wanted: Unpack[Filter]) -> Items[Image]:
        """Iterate over all images, newest first.

        Args:
            wanted: see `Filter`.
        """
        page = await self.images(limit=FULL_PAGE, **wanted)
        while True:
            for image in page:
                yield image
            if page.next is None:
                return
            page = await self.images(limit=FULL_PAGE, before=page.next, **wanted)

    async def image(self, image_id: str) -> Image:
        """Get an image's metadata: size, digest and how it was made."""
        return await self._get(f"/v1/images/{image_id}", Image)

    async def content(
        self,
        image_id: str,
        *,
        format: Literal["png", "jpeg", "webp"] = "png",
        size: int | None = None,
        quality: int = 90,
    ) -> bytes:
        """Get the picture's encoded bytes.

        Args:
            size: of the longer side, in pixels; the image's own if None.
            quality: of JPEG and WebP, 1 to 100.
        """
        params = calls.without_none({"format": format, "size": size, "quality": quality})
        return await self._get_bytes(f"/v1/images/{image_id}/content", params)

    async def delete(self, image_id: str) -> None:
        """Delete an image and everything computed from it."""
        path = f"/v1/images/{image_id}"
        await self.send(Call(method="DELETE", path=path, read=lambda _: None))

    # Analysis

    async def analysis(self, image_id: str, *, labels: Sequence[str] = (), templates: Sequence[str] = ()) -> Analysis:
        """Classify an image and each of its regions.

        Args:
            labels: the classes to choose from; the profile's if left out.
            templates: prompts that contain `{label}`, whose vectors are averaged; the profile's if left out.
        """
        params: dict[str, Any] = {"labels": ",".join(labels)} if labels else {}
        if templates:
            params["templates"] = list(templates)
        return await self._get(f"/v1/images/{image_id}/analysis", Analysis, params)

    async def segments(self, image_id: str, *, format: MaskForm = "polygons") -> tuple[Segment, ...]:
        """Segment an image: every region, most confident first.

        Args:
            format: encoding of each segment's mask: its `polygon`, its `rle`, or a PNG as its `mask`.
        """
        path = f"/v1/images/{image_id}/segments"
        return await self.send(Call(method="GET", path=path, read=calls.read_segments, params={"format": format}))

    async def coco(self, image_id: str) -> dict[str, Any]:
        """Get all regions in COCO's object detection format, which `pycocotools.coco.COCO` loads."""
        return await self._get(f"/v1/images/{image_id}/segments", dict[str, Any], {"format": "coco"})

    async def find(self, image_id: str, text: str, *, format: MaskForm = "polygons") -> tuple[Segment, ...]:
        """Find the regions that match a text, best match first; none, if the image doesn't show it."""
        path, body = f"/v1/images/{image_id}/segments", {"text": text, "format": format}
        return await self.send(Call(method="POST", path=path, read=calls.read_segments, json=body))

    async def cut_out(
        self,
        image_id: str,
        *,
        points: Sequence[Point] = (),
        box: tuple[float, float, float, float] | None = None,
        format: MaskForm = "polygons",
    ) -> tuple[Segment, ...]:
        """Segment the object at points, in a box, or both.

        Args:
            points: each x, y, and False for one that lies outside of the object.
            box: x0, y0, x1, y1.
        """
        body = calls.without_none({**calls.prompt_fields(points, box), "format": format})
        path = f"/v1/images/{image_id}/segments"
        return await self.send(Call(method="POST", path=path, read=calls.read_segments, json=body))

    async def region(self, image_id: str, number: int) -> Segment:
        """Get a region, its mask in every format."""
        return await self._get(f"/v1/images/{image_id}/regions/{number}", Segment)

    async def probe(self, image_id: str, concepts: Sequence[str]) -> Concepts:
        """Score how well concepts match an image and each of its regions."""
        path, body = f"/v1/images/{image_id}/probe", {"concepts": list(concepts)}
        return await self.send(Call(method="POST", path=path, read=calls.read_as(Concepts), json=body))

    async def overlay(self, image_id: str) -> bytes:
        """Get the image with the outlines of all its regions, as PNG."""
        return await self._get_bytes(f"/v1/images/{image_id}/overlay.png")

    async def spotlight(self, image_id: str, region: int) -> bytes:
        """Get the image with everything outside of a region dimmed, as PNG."""
        return await self._get_bytes(f"/v1/images/{image_id}/spotlights/{region}.png")

    async def visualize(self, image_id: str) -> Visualization:
        """Get the overlay and every spotlight at once."""
        body = {"image_id": image_id}
        return await self.send(Call(method="POST", path="/visualize", read=calls.read_as(Visualization), json=body))

    async def embed(self, *, texts: Sequence[str] = (), image_ids: Sequence[str] = ()) -> tuple[tuple[float, ...], ...]:
        """Embed texts and images with CLIP, as vectors of unit norm: the texts' first."""
        inputs = [*texts, *({"image_id": image_id} for image_id in image_ids)]
        body = {"input": inputs, "encoding_format": "base64"}
        return await self.send(Call(method="POST", path="/v1/embeddings", read=calls.read_vectors, json=body))

    # Jobs and events

    async def jobs(self, *, limit: int = PAGE, before: str | None = None, states: Sequence[str] = ()) -> Page[Job]:
        """List jobs, newest first.

        Args:
            limit: maximum number, 1 to 100.
            before: the `next` of the previous page.
            states: only these, such as "running" and "dead".
        """
        params = calls.without_none({"limit": limit, "before": before, "state": list(states)})
        return await self.send(Call(method="GET", path="/v1/jobs", read=calls.read_page(Job, "jobs"), params=params))

    async def every_job(self, *, states: Sequence[str] = ()) -> Items[Job]:
        """Iterate over all jobs, newest first.

        Args:
            states: only these, such as "running" and "dead".
        """
        page = await self.jobs(limit=FULL_PAGE, states=states)
        while True:
            for job in page:
                yield job
            if page.next is None:
                return
            page = await self.jobs(limit=FULL_PAGE, before=page.next, states=states)

    async def job(self, job_id: str) -> Job:
        """Get a job and its state."""
        return await self._get(f"/v1/jobs/{job_id}", Job)

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job; one that has ended stays as it is."""
        return await self.send(_cancellation(job_id))

    async def retry(self, job_id: str) -> Job:
        """Retry a job that failed, was cancelled or is dead."""
        path = f"/v1/jobs/{job_id}/retry"
        return await self.send(Call(method="POST", path=path, read=calls.read_as(Job), is_repeatable=False))

    async def follow(self, job_id: str, *, after: int = 0) -> Items[Event]:
        """Subscribe to a job's events until it has ended; the last one is `generation.finished`.

        Args:
            after: the last event received; from the job's beginning if left out.

        Raises:
            PipelineError: the error that the job failed with, or that it was cancelled.
        """
        async with closing(self._subscribe(Subscription(f"/v1/jobs/{job_id}/events", after=after))) as events:
            async for event in events:
                yield event
                if event.type == FINISHED:
                    return

    async def events(
        self,
        *,
        after: int | None = None,
        types: Sequence[str] = (),
        quiet_s: float | None = None,
        follow: bool = True,
    ) -> Items[Event]:
        """Subscribe to the events of one's images and jobs, without end; a stream that breaks off is resumed.

        Args:
            after: the last event received, 0 for the beginning; from now on if None.
            types: only these, such as "image.created"; all if left out.
            quiet_s: end after so many seconds without an event or heartbeat, when all events were delivered. The
                service sends one every 10 s at least.
            follow: False ends after the events so far; `after` then defaults to 0.
        """
        wanted = Subscription("/v1/events", after=after, types=types, quiet_s=quiet_s, follow=follow)
        async with closing(self._subscribe(wanted)) as events:
            async for event in events:
                yield event

    # Sending

    async def send(self, call: Call[T]) -> T:
        """Send a call, with retries, and decode its response."""
        return call.decode(await self._request_until_success(call))

    async def _get(self, path: str, kind: type[T], params: dict[str, Any] | None = None) -> T:
        return await self.send(Call(method="GET", path=path, read=calls.read_as(kind), params=params or {}))

    async def _get_bytes(self, path: str, params: dict[str, Any] | None = None) -> bytes:
        call = Call(method="GET", path=path, read=lambda response: response.content, params=params or {})
        return await self.send(call)

    async def _request_until_success(self, call: Call[Any]) -> httpx.Response:
        """Send a call until it succeeds or the retry policy is exhausted.

        Raises:
            PipelineError: the error of the last attempt.
        """
        attempts = Attempts(call, self._retries)
        while True:
            try:
                response = await self._request(call)
            except httpx.TransportError as failure:
                pause_s = attempts.pause_after(failure)
            else:
                if not response.is_error:
                    return response
                pause_s = attempts.pause_after(response)
            await pause(pause_s)

    async def _request(self, call: Call[Any]) -> httpx.Response:
        """Send a call once; a stream is left to be read, unless it is an error response."""
        request = self._http.build_request(call.method, call.path, **request_options(call, self._session))
        response = await self._http.send(request, stream=call.is_stream)
        if call.is_stream and response.is_error:
            await response.aread()
        return response

    async def _subscribe(self, wanted: Subscription) -> Items[Event]:
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

    async def _generate(self, call: Call[Accepted], on_progress: OnProgress | None) -> tuple[Image, ...]:
        """Submit jobs and wait for their images; an exception or a cancellation cancels the unfinished ones."""
        unfinished: dict[str, int] | None = None
        try:
            accepted = await self.send(call)
            unfinished = _numbered([job.job_id for job in accepted.jobs])
            for number, job in enumerate(accepted.jobs):
                await notify(on_progress, Progress.accepted(job, number))
            return await self._wait(unfinished, on_progress, accepted.request_id)
        except (ConnectionFailed, GeneratorExit):  # nothing can be sent any more
            raise
        except BaseException as reason:  # KeyboardInterrupt as well
            was_refused = unfinished is None and isinstance(reason, PipelineError)
            if not was_refused:
                job_ids = None if unfinished is None else list(unfinished)
                await self._cleanups.run(lambda: self._cancel(call, job_ids))
            raise

    async def _wait(
        self, unfinished: dict[str, int], on_progress: OnProgress | None, request_id: str = ""
    ) -> tuple[Image, ...]:
        """Wait for the images of jobs.

        Args:
            unfinished: by job id, the numbers of their images; those of jobs that end are removed.
            request_id: of the request that submitted them, for error messages.
        """
        made: dict[int, str] = {}
        if not unfinished:
            return ()
        async with closing(self._events_of(list(unfinished))) as events:
            async for event in events:
                number = unfinished.get(event.job_id or "")
                if number is None:
                    continue
                if event.is_step:
                    await notify(on_progress, event.progress(number))
                elif event.type in JOB_ENDS:
                    job = await self.job(str(event.job_id))  # it may have been retried since
                    if job.has_ended:
                        del unfinished[job.job_id]
                        made[number] = _made_by(job, request_id)
                if not unfinished:
                    break
        return tuple([await self.image(image_id) for _, image_id in sorted(made.items())])

    async def _events_of(self, job_ids: Sequence[str]) -> Items[Event]:
        """Yield the events of jobs: a job's own stream; for several, all events from the first job on."""
        first = Subscription(f"/v1/jobs/{min(job_ids)}/events", after=0, is_service_up=True)  # ids sort by time
        wanted, after = first, 0
        if len(job_ids) > 1:
            async with closing(self._subscribe(first)) as events:
                async for submitted in events:
                    after = submitted.sequence - 1 if submitted.sequence else 0
                    break
            wanted = Subscription("/v1/events", after=after, types=[STEPPED, *JOB_ENDS], is_service_up=True)
        async with closing(self._subscribe(wanted)) as events:
            async for event in events:
                yield event

    async def _cancel(self, call: Call[Accepted], job_ids: Sequence[str] | None) -> None:
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
                await self._request(_cancellation(job_id))


def _numbered(job_ids: Sequence[str]) -> dict[str, int]:
    return {job_id: number for number, job_id in enumerate(job_ids)}


def _cancellation(job_id: str) -> Call[Job]:
    return Call(method="POST", path=f"/v1/jobs/{job_id}/cancel", read=calls.read_as(Job))


def _made_by(job: Job, request_id: str) -> str:
    if job.image_id is not None:
        return job.image_id
    if job.problem is not None:
        raise error_from({"request_id": request_id, **job.problem})
    detail = f"The job {job.job_id} is {job.state} and made nothing."
    raise JobCancelled(title="Job cancelled", detail=detail, code="job_cancelled", request_id=request_id)
