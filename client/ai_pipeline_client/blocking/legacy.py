# Generated from aio/legacy.py by scripts/write_client.py: do not edit.
"""Deprecated methods of clients, under their older names and with their older arguments.

Each does what it always did, and warns what to call instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, Dict, Literal, Optional, Tuple

from ai_pipeline_client import calls
from ai_pipeline_client.blocking.connection import Connection, cancel_job, get_job
from ai_pipeline_client.blocking.image import Image
from ai_pipeline_client.blocking.io import Items, closing
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


class FlatMethods:
    """Deprecated methods of a client."""

    _connection: Connection

    # Generation

    def generate(
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
    ) -> Tuple[Image, ...]:
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
        return self._generate(call, on_progress)

    def create(
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
        return self._connection.send(call)

    def variations(
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
    ) -> Tuple[Image, ...]:
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
        return self._generate(call, on_progress)

    def create_variations(
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
        return self._connection.send(call)

    def edits(
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
    ) -> Tuple[Image, ...]:
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
        return self._generate(call, on_progress)

    def create_edits(
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
        return self._connection.send(call)

    def wait(self, job_ids: Sequence[str], *, on_progress: Optional[OnProgress] = None) -> Tuple[Image, ...]:
        """Wait for the images of jobs."""
        deprecated("client.wait", "client.jobs.wait")
        read = partial(Image.of, self._connection)
        return tuple(self._connection.wait(job_ids, read, Reporter(on_progress)))

    # Images

    def upload(self, picture: bytes) -> Uploaded:
        """Upload a picture: PNG, JPEG or WebP."""
        deprecated("client.upload", "client.images.upload")
        call = Call(
            method="POST",
            path="/v1/images/upload",
            read=calls.read_as(Uploaded),
            files={"file": picture},
            headers=calls.idempotency_header(),
        )
        return self._connection.send(call)

    def every_image(
        self,
        *,
        session: Optional[str] = None,
        label: Optional[str] = None,
        prompt: Optional[str] = None,
        since: Optional[datetime] = None,
        until: Optional[datetime] = None,
    ) -> Items[Image]:
        """Iterate over all images, newest first."""
        deprecated("client.every_image", "client.images.list")
        wanted = {"session": session, "label": label, "prompt": prompt, "since": since, "until": until}
        before: Optional[str] = None
        while True:
            page = self._connection.send(_image_page(self._connection, FULL_PAGE, before, wanted))
            for image in page:
                yield image
            before = page.next
            if before is None:
                return

    def image(self, image_id: str) -> Image:
        """Get an image's metadata: size, digest and how it was made."""
        deprecated("client.image", "client.images.get")
        return self._connection.get(f"/v1/images/{image_id}", partial(Image.of, self._connection))

    def content(
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
        return self._connection.get_bytes(f"/v1/images/{image_id}/content", params)

    def delete(self, image_id: str) -> None:
        """Delete an image and everything computed from it."""
        deprecated("client.delete", "client.images.delete")
        self._connection.send(Call(method="DELETE", path=f"/v1/images/{image_id}", read=lambda _: None))

    # Analysis

    def analysis(self, image_id: str, *, labels: Sequence[str] = (), templates: Sequence[str] = ()) -> Labels:
        """Classify an image and each of its regions."""
        deprecated("client.analysis", "image.labels")
        params = {"labels": ",".join(labels) or None, "templates": list(templates) or None}
        return self._connection.get(f"/v1/images/{image_id}/analysis", partial(decoded, Labels), params)

    def segments(self, image_id: str, *, format: MaskForm = "polygons") -> Tuple[Segment, ...]:
        """Segment an image: every region, most confident first."""
        deprecated("client.segments", "image.regions")
        return self._connection.get(f"/v1/images/{image_id}/segments", calls.segments_in, {"format": format})

    def coco(self, image_id: str) -> Dict[str, Any]:
        """Get all regions in COCO's object detection format."""
        deprecated("client.coco", "image.coco")
        read = partial(decoded, Dict[str, Any])
        return self._connection.get(f"/v1/images/{image_id}/segments", read, {"format": "coco"})

    def find(self, image_id: str, text: str, *, format: MaskForm = "polygons") -> Tuple[Segment, ...]:
        """Find the regions that match a text, best match first."""
        deprecated("client.find", "image.find or image.regions(text)")
        return self._connection.send(_segments(image_id, {"text": text, "format": format}))

    def cut_out(
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
        return self._connection.send(_segments(image_id, body))

    def region(self, image_id: str, number: int) -> Segment:
        """Get a region, its mask in every format."""
        deprecated("client.region", "image.region")
        return self._connection.get(f"/v1/images/{image_id}/regions/{number}", partial(decoded, Segment))

    def probe(self, image_id: str, concepts: Sequence[str]) -> Concepts:
        """Score how well concepts match an image and each of its regions."""
        deprecated("client.probe", "image.probe")
        path, body = f"/v1/images/{image_id}/probe", {"concepts": list(concepts)}
        return self._connection.send(Call(method="POST", path=path, read=calls.read_as(Concepts), json=body))

    def overlay(self, image_id: str) -> bytes:
        """Get the image with the outlines of all its regions, as PNG."""
        deprecated("client.overlay", "image.overlay")
        return self._connection.get_bytes(f"/v1/images/{image_id}/overlay.png")

    def spotlight(self, image_id: str, region: int) -> bytes:
        """Get the image with everything outside of a region dimmed, as PNG."""
        deprecated("client.spotlight", "region.spotlight")
        return self._connection.get_bytes(f"/v1/images/{image_id}/spotlights/{region}.png")

    def visualize(self, image_id: str) -> Visualization:
        """Get the overlay and every spotlight at once."""
        deprecated("client.visualize", "image.overlay and region.spotlight")
        call = Call(method="POST", path="/visualize", read=calls.read_as(Visualization), json={"image_id": image_id})
        return self._connection.send(call)

    def embed(self, *, texts: Sequence[str] = (), image_ids: Sequence[str] = ()) -> Tuple[Tuple[float, ...], ...]:
        """Embed texts and images with CLIP, as vectors of unit norm: the texts' first."""
        deprecated("client.embed", "client.embeddings")
        return self._connection.send(calls.embeddings(texts, image_ids))

    # Jobs and events

    def every_job(self, *, states: Sequence[str] = ()) -> Items[Job]:
        """Iterate over all jobs, newest first."""
        deprecated("client.every_job", "client.jobs.list")
        before: Optional[str] = None
        while True:
            page = self._connection.send(_job_page(FULL_PAGE, before, states))
            for job in page:
                yield job
            before = page.next
            if before is None:
                return

    def job(self, job_id: str) -> Job:
        """Get a job and its state."""
        deprecated("client.job", "client.jobs.get")
        return self._connection.send(get_job(job_id))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; one that has ended stays as it is."""
        deprecated("client.cancel", "client.jobs.cancel")
        return self._connection.send(cancel_job(job_id))

    def retry(self, job_id: str) -> Job:
        """Retry a job that failed, was cancelled or is dead."""
        deprecated("client.retry", "client.jobs.retry")
        path = f"/v1/jobs/{job_id}/retry"
        return self._connection.send(Call(method="POST", path=path, read=calls.read_as(Job), is_repeatable=False))

    def follow(self, job_id: str, *, after: int = 0) -> Items[Event]:
        """Subscribe to a job's events until it has ended; the last one is `generation.finished`."""
        deprecated("client.follow", "client.jobs.stream")
        wanted = Subscription(f"/v1/jobs/{job_id}/events", after=after)
        with closing(self._connection.subscribe(wanted)) as events:
            for event in events:
                yield event
                if event.type == FINISHED:
                    return

    def _generate(self, call: Call[Accepted], on_progress: Optional[OnProgress]) -> Tuple[Image, ...]:
        read = partial(Image.of, self._connection)
        return tuple(self._connection.generate(call, read, Reporter(on_progress)))


class CallableImages:
    """`client.images(…)`."""

    def __init__(self, connection: Connection) -> None:
        self.__connection = connection

    def __call__(
        self,
        *,
        limit: int = PAGE,
        before: Optional[str] = None,
        session: Optional[str] = None,
        label: Optional[str] = None,
        prompt: Optional[str] = None,
        since: Optional[datetime] = None,
        until: Optional[datetime] = None,
    ) -> Page[Image]:
        """List images, newest first."""
        deprecated("client.images(…)", "client.images.page or list")
        wanted = {"session": session, "label": label, "prompt": prompt, "since": since, "until": until}
        return self.__connection.send(_image_page(self.__connection, limit, before, wanted))


class CallableJobs:
    """`client.jobs(…)`."""

    def __init__(self, connection: Connection) -> None:
        self.__connection = connection

    def __call__(self, *, limit: int = PAGE, before: Optional[str] = None, states: Sequence[str] = ()) -> Page[Job]:
        """List jobs, newest first."""
        deprecated("client.jobs(…)", "client.jobs.page or list")
        return self.__connection.send(_job_page(limit, before, states))


class CallableEvents:
    """`client.events(…)`."""

    def __init__(self, connection: Connection) -> None:
        self.__connection = connection

    def __call__(
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
        with closing(self.__connection.subscribe(wanted)) as events:
            for event in events:
                yield event


def _image_page(connection: Connection, limit: int, before: Optional[str], wanted: Dict[str, Any]) -> Call[Page[Image]]:
    params = calls.query_parameters({"limit": limit, "before": before, **wanted})
    read = calls.read_page(partial(Image.of, connection), "images")
    return Call(method="GET", path="/v1/images", read=read, params=params)


def _job_page(limit: int, before: Optional[str], states: Sequence[str]) -> Call[Page[Job]]:
    params = calls.without_none({"limit": limit, "before": before, "state": list(states)})
    return Call(method="GET", path="/v1/jobs", read=calls.read_page(partial(decoded, Job), "jobs"), params=params)


def _segments(image_id: str, body: Dict[str, Any]) -> Call[Tuple[Segment, ...]]:
    path = f"/v1/images/{image_id}/segments"
    return Call(method="POST", path=path, read=lambda response: calls.segments_in(response.json()), json=body)
