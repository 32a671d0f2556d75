"""Deprecated methods of clients, under their older names and with their older arguments.

Each does what it always did, and warns what to call instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, Dict, Literal, Optional, Tuple

from ai_pipeline_client import calls
from ai_pipeline_client.aio.connection import AsyncConnection, cancel_job, get_job
from ai_pipeline_client.aio.image import AsyncImage
from ai_pipeline_client.aio.io import Items, closing
from ai_pipeline_client.calls import BoxPrompt, Call, MaskForm, Point, creation, creation_of_edits
from ai_pipeline_client.decoding import decoded
from ai_pipeline_client.deprecation import deprecated
from ai_pipeline_client.progress import Reporter
from ai_pipeline_client.results import (
    FINISHED,
    Accepted,
    Concepts,
    Event,
    Job,
    Labels,
    OnProgress,
    Page,
    Segment,
    Uploaded,
    Visualization,
)
from ai_pipeline_client.subscription import Subscription

PAGE = 20
FULL_PAGE = 100


class AsyncFlatMethods:
    """Deprecated methods of a client."""

    _connection: AsyncConnection

    # Generation

    async def generate(
        self,
        prompt: str,
        *,
        n: int = 1,
        on_progress: Optional[OnProgress] = None,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        width: Optional[int] = None,
        height: Optional[int] = None,
        scheduler: Optional[str] = None,
        deterministic: Optional[bool] = None,
    ) -> Tuple[AsyncImage, ...]:
        """Generate images and wait for them."""
        deprecated("client.generate", "client.images.generate or generate_many")
        body = {
            "prompt": prompt,
            "n": n,
            "negative_prompt": negative_prompt,
            "seed": seed,
            "steps": steps,
            "guidance": guidance,
            "width": width,
            "height": height,
            "scheduler": scheduler,
            "deterministic": deterministic,
        }
        call = creation("/v1/images", body)
        return await self._generate(call, on_progress)

    async def create(
        self,
        prompt: str,
        *,
        n: int = 1,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        width: Optional[int] = None,
        height: Optional[int] = None,
        scheduler: Optional[str] = None,
        deterministic: Optional[bool] = None,
    ) -> Accepted:
        """Submit images without waiting for them."""
        deprecated("client.create", "client.images.submit")
        body = {
            "prompt": prompt,
            "n": n,
            "negative_prompt": negative_prompt,
            "seed": seed,
            "steps": steps,
            "guidance": guidance,
            "width": width,
            "height": height,
            "scheduler": scheduler,
            "deterministic": deterministic,
        }
        call = creation("/v1/images", body)
        return await self._connection.send(call)

    async def variations(
        self,
        image_id: str,
        *,
        prompt: Optional[str] = None,
        strength: float = 0.6,
        n: int = 1,
        on_progress: Optional[OnProgress] = None,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        width: Optional[int] = None,
        height: Optional[int] = None,
        scheduler: Optional[str] = None,
        deterministic: Optional[bool] = None,
    ) -> Tuple[AsyncImage, ...]:
        """Generate variations of an image and wait for them."""
        deprecated("client.variations", "image.vary")
        body = {
            "prompt": prompt,
            "strength": strength,
            "n": n,
            "negative_prompt": negative_prompt,
            "seed": seed,
            "steps": steps,
            "guidance": guidance,
            "width": width,
            "height": height,
            "scheduler": scheduler,
            "deterministic": deterministic,
        }
        call = creation(f"/v1/images/{image_id}/variations", body)
        return await self._generate(call, on_progress)

    async def create_variations(
        self,
        image_id: str,
        *,
        prompt: Optional[str] = None,
        strength: float = 0.6,
        n: int = 1,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        width: Optional[int] = None,
        height: Optional[int] = None,
        scheduler: Optional[str] = None,
        deterministic: Optional[bool] = None,
    ) -> Accepted:
        """Submit variations of an image without waiting for them."""
        deprecated("client.create_variations", "image.submit_variations")
        body = {
            "prompt": prompt,
            "strength": strength,
            "n": n,
            "negative_prompt": negative_prompt,
            "seed": seed,
            "steps": steps,
            "guidance": guidance,
            "width": width,
            "height": height,
            "scheduler": scheduler,
            "deterministic": deterministic,
        }
        call = creation(f"/v1/images/{image_id}/variations", body)
        return await self._connection.send(call)

    async def edits(
        self,
        image_id: str,
        prompt: str,
        *,
        mask: Optional[bytes] = None,
        region: Optional[int] = None,
        concept: Optional[str] = None,
        points: Sequence[Point] = (),
        box: Optional[BoxPrompt] = None,
        strength: float = 1.0,
        n: int = 1,
        on_progress: Optional[OnProgress] = None,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        width: Optional[int] = None,
        height: Optional[int] = None,
        scheduler: Optional[str] = None,
        deterministic: Optional[bool] = None,
    ) -> Tuple[AsyncImage, ...]:
        """Edit a part of an image and wait for the results."""
        deprecated("client.edits", "image.edit or edit_many")
        body = {
            "prompt": prompt,
            "strength": strength,
            "n": n,
            "negative_prompt": negative_prompt,
            "seed": seed,
            "steps": steps,
            "guidance": guidance,
            "width": width,
            "height": height,
            "scheduler": scheduler,
            "deterministic": deterministic,
        }
        call = creation_of_edits(image_id, mask=mask, region=region, concept=concept, points=points, box=box, **body)
        return await self._generate(call, on_progress)

    async def create_edits(
        self,
        image_id: str,
        prompt: str,
        *,
        mask: Optional[bytes] = None,
        region: Optional[int] = None,
        concept: Optional[str] = None,
        points: Sequence[Point] = (),
        box: Optional[BoxPrompt] = None,
        strength: float = 1.0,
        n: int = 1,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        width: Optional[int] = None,
        height: Optional[int] = None,
        scheduler: Optional[str] = None,
        deterministic: Optional[bool] = None,
    ) -> Accepted:
        """Submit edits of a part of an image without waiting for them."""
        deprecated("client.create_edits", "image.submit_edits")
        body = {
            "prompt": prompt,
            "strength": strength,
            "n": n,
            "negative_prompt": negative_prompt,
            "seed": seed,
            "steps": steps,
            "guidance": guidance,
            "width": width,
            "height": height,
            "scheduler": scheduler,
            "deterministic": deterministic,
        }
        call = creation_of_edits(image_id, mask=mask, region=region, concept=concept, points=points, box=box, **body)
        return await self._connection.send(call)

    async def wait(self, job_ids: Sequence[str], *, on_progress: Optional[OnProgress] = None) -> Tuple[AsyncImage, ...]:
        """Wait for the images of jobs."""
        deprecated("client.wait", "client.jobs.wait")
        read = partial(AsyncImage.of, self._connection)
        return tuple(await self._connection.wait(job_ids, read, Reporter(on_progress)))

    # Images

    async def upload(self, picture: bytes) -> Uploaded:
        """Upload a picture: PNG, JPEG or WebP."""
        deprecated("client.upload", "client.images.upload")
        call = Call(
            method="POST",
            path="/v1/images/upload",
            read=calls.read_as(Uploaded),
            files={"file": picture},
            headers=calls.idempotency_header(),
        )
        return await self._connection.send(call)

    async def every_image(
        self,
        *,
        session: Optional[str] = None,
        label: Optional[str] = None,
        prompt: Optional[str] = None,
        since: Optional[datetime] = None,
        until: Optional[datetime] = None,
    ) -> Items[AsyncImage]:
        """Iterate over all images, newest first."""
        deprecated("client.every_image", "client.images.list")
        wanted = {"session": session, "label": label, "prompt": prompt, "since": since, "until": until}
        before: Optional[str] = None
        while True:
            page = await self._connection.send(_image_page(self._connection, FULL_PAGE, before, wanted))
            for image in page:
                yield image
            before = page.next
            if before is None:
                return

    async def image(self, image_id: str) -> AsyncImage:
        """Get an image's metadata: size, digest and how it was made."""
        deprecated("client.image", "client.images.get")
        return await self._connection.get(f"/v1/images/{image_id}", partial(AsyncImage.of, self._connection))

    async def content(
        self,
        image_id: str,
        *,
        format: Literal["png", "jpeg", "webp"] = "png",
        size: Optional[int] = None,
        quality: int = 90,
    ) -> bytes:
        """Get the picture's encoded bytes."""
        deprecated("client.content", "image.bytes or image.save")
        params = {"format": format, "size": size, "quality": quality}
        return await self._connection.get_bytes(f"/v1/images/{image_id}/content", params)

    async def delete(self, image_id: str) -> None:
        """Delete an image and everything computed from it."""
        deprecated("client.delete", "client.images.delete")
        await self._connection.send(Call(method="DELETE", path=f"/v1/images/{image_id}", read=lambda _: None))

    # Analysis

    async def analysis(self, image_id: str, *, labels: Sequence[str] = (), templates: Sequence[str] = ()) -> Labels:
        """Classify an image and each of its regions."""
        deprecated("client.analysis", "image.labels")
        params = {"labels": ",".join(labels) or None, "templates": list(templates) or None}
        return await self._connection.get(f"/v1/images/{image_id}/analysis", partial(decoded, Labels), params)

    async def segments(self, image_id: str, *, format: MaskForm = "polygons") -> Tuple[Segment, ...]:
        """Segment an image: every region, most confident first."""
        deprecated("client.segments", "image.regions")
        return await self._connection.get(f"/v1/images/{image_id}/segments", calls.segments_in, {"format": format})

    async def coco(self, image_id: str) -> Dict[str, Any]:
        """Get all regions in COCO's object detection format."""
        deprecated("client.coco", "image.coco")
        read = partial(decoded, Dict[str, Any])
        return await self._connection.get(f"/v1/images/{image_id}/segments", read, {"format": "coco"})

    async def find(self, image_id: str, text: str, *, format: MaskForm = "polygons") -> Tuple[Segment, ...]:
        """Find the regions that match a text, best match first."""
        deprecated("client.find", "image.find or image.regions(text)")
        return await self._connection.send(_segments(image_id, {"text": text, "format": format}))

    async def cut_out(
        self,
        image_id: str,
        *,
        points: Sequence[Point] = (),
        box: Optional[BoxPrompt] = None,
        format: MaskForm = "polygons",
    ) -> Tuple[Segment, ...]:
        """Segment the object at points, in a box, or both."""
        deprecated("client.cut_out", "image.region_at")
        body = calls.without_none({**calls.prompt_fields(points, box), "format": format})
        return await self._connection.send(_segments(image_id, body))

    async def region(self, image_id: str, number: int) -> Segment:
        """Get a region, its mask in every format."""
        deprecated("client.region", "image.region")
        return await self._connection.get(f"/v1/images/{image_id}/regions/{number}", partial(decoded, Segment))

    async def probe(self, image_id: str, concepts: Sequence[str]) -> Concepts:
        """Score how well concepts match an image and each of its regions."""
        deprecated("client.probe", "image.probe")
        path, body = f"/v1/images/{image_id}/probe", {"concepts": list(concepts)}
        return await self._connection.send(Call(method="POST", path=path, read=calls.read_as(Concepts), json=body))

    async def overlay(self, image_id: str) -> bytes:
        """Get the image with the outlines of all its regions, as PNG."""
        deprecated("client.overlay", "image.overlay")
        return await self._connection.get_bytes(f"/v1/images/{image_id}/overlay.png")

    async def spotlight(self, image_id: str, region: int) -> bytes:
        """Get the image with everything outside of a region dimmed, as PNG."""
        deprecated("client.spotlight", "region.spotlight")
        return await self._connection.get_bytes(f"/v1/images/{image_id}/spotlights/{region}.png")

    async def visualize(self, image_id: str) -> Visualization:
        """Get the overlay and every spotlight at once."""
        deprecated("client.visualize", "image.overlay and region.spotlight")
        call = Call(method="POST", path="/visualize", read=calls.read_as(Visualization), json={"image_id": image_id})
        return await self._connection.send(call)

    async def embed(self, *, texts: Sequence[str] = (), image_ids: Sequence[str] = ()) -> Tuple[Tuple[float, ...], ...]:
        """Embed texts and images with CLIP, as vectors of unit norm: the texts' first."""
        deprecated("client.embed", "client.embeddings")
        return await self._connection.send(calls.embeddings(texts, image_ids))

    # Jobs and events

    async def every_job(self, *, states: Sequence[str] = ()) -> Items[Job]:
        """Iterate over all jobs, newest first."""
        deprecated("client.every_job", "client.jobs.list")
        before: Optional[str] = None
        while True:
            page = await self._connection.send(_job_page(FULL_PAGE, before, states))
            for job in page:
                yield job
            before = page.next
            if before is None:
                return

    async def job(self, job_id: str) -> Job:
        """Get a job and its state."""
        deprecated("client.job", "client.jobs.get")
        return await self._connection.send(get_job(job_id))

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job; one that has ended stays as it is."""
        deprecated("client.cancel", "client.jobs.cancel")
        return await self._connection.send(cancel_job(job_id))

    async def retry(self, job_id: str) -> Job:
        """Retry a job that failed, was cancelled or is dead."""
        deprecated("client.retry", "client.jobs.retry")
        path = f"/v1/jobs/{job_id}/retry"
        return await self._connection.send(Call(method="POST", path=path, read=calls.read_as(Job), is_repeatable=False))

    async def follow(self, job_id: str, *, after: int = 0) -> Items[Event]:
        """Subscribe to a job's events until it has ended; the last one is `generation.finished`."""
        deprecated("client.follow", "client.jobs.stream")
        wanted = Subscription(f"/v1/jobs/{job_id}/events", after=after)
        async with closing(self._connection.subscribe(wanted)) as events:
            async for event in events:
                yield event
                if event.type == FINISHED:
                    return

    async def _generate(self, call: Call[Accepted], on_progress: Optional[OnProgress]) -> Tuple[AsyncImage, ...]:
        read = partial(AsyncImage.of, self._connection)
        return tuple(await self._connection.generate(call, read, Reporter(on_progress)))


class AsyncCallableImages:
    """`client.images(…)`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.__connection = connection

    async def __call__(
        self,
        *,
        limit: int = PAGE,
        before: Optional[str] = None,
        session: Optional[str] = None,
        label: Optional[str] = None,
        prompt: Optional[str] = None,
        since: Optional[datetime] = None,
        until: Optional[datetime] = None,
    ) -> Page[AsyncImage]:
        """List images, newest first."""
        deprecated("client.images(…)", "client.images.page or list")
        wanted = {"session": session, "label": label, "prompt": prompt, "since": since, "until": until}
        return await self.__connection.send(_image_page(self.__connection, limit, before, wanted))


class AsyncCallableJobs:
    """`client.jobs(…)`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.__connection = connection

    async def __call__(
        self, *, limit: int = PAGE, before: Optional[str] = None, states: Sequence[str] = ()
    ) -> Page[Job]:
        """List jobs, newest first."""
        deprecated("client.jobs(…)", "client.jobs.page or list")
        return await self.__connection.send(_job_page(limit, before, states))


class AsyncCallableEvents:
    """`client.events(…)`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.__connection = connection

    async def __call__(
        self,
        *,
        after: Optional[int] = None,
        types: Sequence[str] = (),
        quiet_s: Optional[float] = None,
        follow: bool = True,
    ) -> Items[Event]:
        """Subscribe to the events of one's images and jobs."""
        deprecated("client.events(…)", "client.events.stream or list")
        wanted = Subscription("/v1/events", after=after, types=types, quiet_s=quiet_s, follow=follow)
        async with closing(self.__connection.subscribe(wanted)) as events:
            async for event in events:
                yield event


def _image_page(
    connection: AsyncConnection, limit: int, before: Optional[str], wanted: Dict[str, Any]
) -> Call[Page[AsyncImage]]:
    params = calls.query_parameters({"limit": limit, "before": before, **wanted})
    read = calls.read_page(partial(AsyncImage.of, connection), "images")
    return Call(method="GET", path="/v1/images", read=read, params=params)


def _job_page(limit: int, before: Optional[str], states: Sequence[str]) -> Call[Page[Job]]:
    params = calls.without_none({"limit": limit, "before": before, "state": list(states)})
    return Call(method="GET", path="/v1/jobs", read=calls.read_page(partial(decoded, Job), "jobs"), params=params)


def _segments(image_id: str, body: Dict[str, Any]) -> Call[Tuple[Segment, ...]]:
    path = f"/v1/images/{image_id}/segments"
    return Call(method="POST", path=path, read=lambda response: calls.segments_in(response.json()), json=body)
