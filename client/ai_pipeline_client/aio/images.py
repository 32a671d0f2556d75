"""`client.images`: making, uploading, listing and deleting images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Dict, List, Optional, Union

from ai_pipeline_client import calls
from ai_pipeline_client.aio.connection import AsyncConnection
from ai_pipeline_client.aio.image import AsyncImage, update_of
from ai_pipeline_client.aio.io import Items
from ai_pipeline_client.aio.legacy import AsyncCallableImages
from ai_pipeline_client.calls import Call, Include, Order, id_of
from ai_pipeline_client.fields import ImageFields
from ai_pipeline_client.picture import PictureSource, encoded
from ai_pipeline_client.progress import Reporter
from ai_pipeline_client.results import Job, OnProgress, Page, Scheduler

IMAGES = "/v1/images"
PAGE = 20
FULL_PAGE = 100

ImageOrId = Union[ImageFields, str]


class AsyncImages(AsyncCallableImages):
    """Your images. Every method raises `PipelineError`."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__(connection)
        self._connection = connection

    async def generate(
        self,
        prompt: str,
        *,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        width: Optional[int] = None,
        height: Optional[int] = None,
        scheduler: Optional[Scheduler] = None,
        deterministic: Optional[bool] = None,
        metadata: Optional[Mapping[str, str]] = None,
        tags: Optional[Sequence[str]] = None,
        include: Sequence[Include] = (),
        progress: bool = False,
        on_progress: Optional[OnProgress] = None,
    ) -> AsyncImage:
        """Generate an image from a prompt and wait for it. An exception or a cancellation cancels its job.

        What is left out is the default of the service's profile.

        Args:
            prompt: what to show.
            negative_prompt: what not to show.
            seed: random if None.
            steps: denoising steps.
            guidance: classifier-free guidance scale.
            width: in pixels.
            height: in pixels.
            scheduler: of the denoising.
            deterministic: whether the image is bit-identical under any load.
            metadata: your own values by key, to find it by.
            tags: your own tags, to find it by.
            include: what to get at once: its content, labels, regions.
            progress: whether to show a bar on stderr, if it is a terminal.
            on_progress: called when it is accepted, as step 0, and after each step, with its preview. Steps are not
                stored: those missed while disconnected are not delivered later.

        Raises:
            PipelineError: the service refuses, or the image failed.
            ConnectionFailed: the connection is lost. An accepted job continues.
        """
        body = {
            **calls.parameters(negative_prompt, steps, guidance, scheduler, deterministic, metadata, tags),
            "prompt": prompt,
            "seed": seed,
            "width": width,
            "height": height,
        }
        (image,) = await self._generate(body, Reporter(on_progress, progress), include)
        return image

    async def generate_many(
        self,
        prompt: str,
        *,
        n: Optional[int] = None,
        seeds: Optional[Sequence[int]] = None,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        width: Optional[int] = None,
        height: Optional[int] = None,
        scheduler: Optional[Scheduler] = None,
        deterministic: Optional[bool] = None,
        metadata: Optional[Mapping[str, str]] = None,
        tags: Optional[Sequence[str]] = None,
        include: Sequence[Include] = (),
        progress: bool = False,
        on_progress: Optional[OnProgress] = None,
    ) -> List[AsyncImage]:
        """Generate several images at once; the further arguments are those of `generate`.

        Args:
            prompt: what to show.
            n: number of images, 1 to 10.
            seeds: or a seed for each image.
            seed: of the first of `n` images; each further one has the next.

        Returns:
            The images in the order of their seeds.

        Raises:
            PipelineError: the service refuses, or one image failed, in which case the others are cancelled.
            ValueError: neither `n` nor `seeds` is given, or both.
        """
        body = {
            **calls.number_of_images(n, seed, seeds),
            **calls.parameters(negative_prompt, steps, guidance, scheduler, deterministic, metadata, tags),
            "prompt": prompt,
            "width": width,
            "height": height,
        }
        return await self._generate(body, Reporter(on_progress, progress), include)

    async def submit(
        self,
        prompt: str,
        *,
        n: int = 1,
        seeds: Optional[Sequence[int]] = None,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        width: Optional[int] = None,
        height: Optional[int] = None,
        scheduler: Optional[Scheduler] = None,
        deterministic: Optional[bool] = None,
        metadata: Optional[Mapping[str, str]] = None,
        tags: Optional[Sequence[str]] = None,
    ) -> List[Job]:
        """Submit images without waiting for them: `client.jobs.wait(*jobs)` does. The arguments are those of
        `generate_many`.

        Returns:
            A job for each image, in the order of their seeds.
        """
        body = {
            **calls.number_of_images(n, seed, seeds),
            **calls.parameters(negative_prompt, steps, guidance, scheduler, deterministic, metadata, tags),
            "prompt": prompt,
            "width": width,
            "height": height,
        }
        accepted = await self._connection.send(calls.creation(IMAGES, body))
        return list(accepted.jobs)

    async def upload(
        self,
        picture: PictureSource,
        *,
        metadata: Optional[Mapping[str, str]] = None,
        tags: Sequence[str] = (),
        include: Sequence[Include] = (),
    ) -> AsyncImage:
        """Upload a picture: PNG, JPEG or WebP.

        Args:
            picture: the path of a file, encoded bytes, a binary file object, a PIL image, or a numpy array.
            metadata: your own values by key.
            tags: your own tags.
            include: what to get at once: its content, labels, regions.

        Raises:
            OSError: the file can't be read.
            TypeError: it is no picture.
        """
        params = {**_by_key(metadata), "tag": list(tags), "include": list(include)}
        call = Call(
            method="POST",
            path=f"{IMAGES}/upload",
            read=lambda response: self._read(response.json()),
            params=params,
            files={"file": encoded(picture)},
            headers=calls.idempotency_header(),
        )
        return await self._connection.send(call)

    async def get(self, image: ImageOrId, *, include: Sequence[Include] = ()) -> AsyncImage:
        """Get an image.

        Args:
            image: the image, or its id.
            include: what to get at once: its content, labels, regions.

        Raises:
            NotFound: there is no such image.
        """
        params = {"include": list(include)}
        return await self._connection.get(f"{IMAGES}/{id_of(image, 'image')}", self._read, params)

    async def list(
        self,
        *,
        session: Optional[str] = None,
        label: Optional[str] = None,
        prompt: Optional[str] = None,
        tags: Sequence[str] = (),
        metadata: Optional[Mapping[str, str]] = None,
        image_ids: Sequence[str] = (),
        made_from: Optional[ImageOrId] = None,
        created_after: Optional[datetime] = None,
        created_before: Optional[datetime] = None,
        order: Optional[Order] = None,
        include_labels: bool = False,
    ) -> Items[AsyncImage]:
        """Iterate over images, newest first, over as many pages as it takes.

        Args:
            session: generated or uploaded in it.
            label: one of the five best labels.
            prompt: substring of the prompt, in any case.
            tags: with all of these tags.
            metadata: with these values by key.
            image_ids: only these, 100 at most.
            made_from: variations and edits of this image.
            created_after: stored then or later; UTC, if it has no time zone.
            created_before: stored before.
            order: "desc" for newest first, "asc" for oldest first.
            include_labels: whether to get the labels of those that have been analyzed.
        """
        after: Optional[str] = None
        while True:
            page = await self.page(
                limit=FULL_PAGE,
                after=after,
                session=session,
                label=label,
                prompt=prompt,
                tags=tags,
                metadata=metadata,
                image_ids=image_ids,
                made_from=made_from,
                created_after=created_after,
                created_before=created_before,
                order=order,
                include_labels=include_labels,
            )
            for image in page:
                yield image
            after = page.next
            if after is None:
                return

    async def page(
        self,
        *,
        limit: int = PAGE,
        after: Optional[str] = None,
        session: Optional[str] = None,
        label: Optional[str] = None,
        prompt: Optional[str] = None,
        tags: Sequence[str] = (),
        metadata: Optional[Mapping[str, str]] = None,
        image_ids: Sequence[str] = (),
        made_from: Optional[ImageOrId] = None,
        created_after: Optional[datetime] = None,
        created_before: Optional[datetime] = None,
        order: Optional[Order] = None,
        include_labels: bool = False,
    ) -> Page[AsyncImage]:
        """Get one page of the list; the further arguments are those of `list`.

        Args:
            limit: maximum number, 1 to 100.
            after: the `next` of the page before.
        """
        params = {
            **_by_key(metadata),
            "limit": limit,
            "after": after,
            "session": session,
            "label": label,
            "prompt": prompt,
            "tag": list(tags),
            "image_id": list(image_ids),
            "made_from": None if made_from is None else id_of(made_from, "image"),
            "created_after": created_after,
            "created_before": created_before,
            "order": order,
            "include": "labels" if include_labels else None,
        }
        call = Call(
            method="GET",
            path=IMAGES,
            read=calls.read_page(self._read, "images"),
            params=calls.query_parameters(params),
        )
        return await self._connection.send(call)

    async def update(
        self,
        image: ImageOrId,
        *,
        metadata: Optional[Mapping[str, Optional[str]]] = None,
        tags: Optional[Sequence[str]] = None,
    ) -> AsyncImage:
        """Change the metadata and tags of an image.

        Args:
            image: the image, or its id.
            metadata: values to set by key, None to delete a key; others stay.
            tags: replace the tags.

        Returns:
            The image as it is then.
        """
        return await self._connection.send(update_of(self._connection, id_of(image, "image"), metadata, tags))

    async def delete(self, *images: ImageOrId) -> None:
        """Delete images and everything computed from them; those that are deleted already are ignored.

        Args:
            images: the images, or their ids.
        """
        ids = [id_of(image, "image") for image in images]
        if len(ids) == 1:
            await self._connection.send(Call(method="DELETE", path=f"{IMAGES}/{ids[0]}", read=lambda _: None))
            return
        for start in range(0, len(ids), FULL_PAGE):
            body = {"image_ids": ids[start : start + FULL_PAGE]}
            await self._connection.send(Call(method="POST", path=f"{IMAGES}/delete", read=lambda _: None, json=body))

    async def _generate(
        self, body: Mapping[str, Any], reporter: Reporter, include: Sequence[Include]
    ) -> List[AsyncImage]:
        return await self._connection.generate(calls.creation(IMAGES, body), self._read, reporter, include)

    @property
    def _read(self) -> partial[AsyncImage]:
        """Decodes an image."""
        return partial(AsyncImage.of, self._connection)


def _by_key(metadata: Optional[Mapping[str, str]]) -> Dict[str, Any]:
    """Return metadata as query parameters."""
    return {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
