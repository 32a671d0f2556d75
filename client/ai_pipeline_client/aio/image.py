"""Images and regions: what is known of them, and what can be done with them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from ai_pipeline_client import calls
from ai_pipeline_client.aio.connection import AsyncConnection
from ai_pipeline_client.aio.io import displayed
from ai_pipeline_client.calls import BoxPrompt, Call, Format, Include, Point
from ai_pipeline_client.decoding import decoded
from ai_pipeline_client.edits import edit_area
from ai_pipeline_client.fields import ImageFields, RegionFields, region_payloads
from ai_pipeline_client.picture import Picture, PictureSource, Pixels, format_of, opened, pixels_of, write_file
from ai_pipeline_client.progress import Reporter
from ai_pipeline_client.results import Concepts, Job, Labels, OnProgress, Scheduler

Bytes = bytes  # `AsyncImage.bytes` is a method
FORMS = ["polygons", "rle"]  # of masks
THUMBNAIL = 512  # longer side in a notebook, in pixels


class AsyncImage(ImageFields):
    """A stored image, and what can be done with it. Every method that sends a request raises `PipelineError`."""

    _connection: AsyncConnection

    @classmethod
    def of(cls, connection: AsyncConnection, payload: Mapping[str, Any]) -> AsyncImage:
        """Return the image that a JSON object describes."""
        image = decoded(cls, {**payload, "raw": payload})
        object.__setattr__(image, "_connection", connection)  # it is frozen
        return image

    # Its picture

    async def bytes(
        self, *, format: Format = "png", max_side: Optional[int] = None, quality: Optional[int] = None
    ) -> Bytes:
        """Get the picture's encoded bytes.

        Args:
            format: of the bytes.
            max_side: the longer side is scaled down to so many pixels; None keeps the size.
            quality: of JPEG and WebP, 1 to 100.
        """
        params = {"format": format, "max_side": max_side, "quality": quality}
        return await self._connection.get_bytes(f"{self._path}/content", params)

    async def save(
        self,
        path: Union[str, os.PathLike[str]],
        *,
        format: Optional[Format] = None,
        max_side: Optional[int] = None,
        quality: Optional[int] = None,
    ) -> Path:
        """Write the picture to a file.

        Args:
            path: of the file.
            format: that of the file's suffix if None.
            max_side: the longer side is scaled down to so many pixels; None keeps the size.
            quality: of JPEG and WebP, 1 to 100.

        Returns:
            The file's path.

        Raises:
            ValueError: the suffix is that of no known format.
        """
        params = {"format": format_of(path, format), "max_side": max_side, "quality": quality}
        return write_file(path, await self._connection.get_bytes(f"{self._path}/content", params))

    async def pil(self) -> Any:
        """Get the picture as a `PIL.Image.Image`.

        Raises:
            ImportError: pillow isn't installed.
        """
        return opened(await self._content())

    async def numpy(self) -> Pixels:
        """Get the pixels: array (h, w, 3) of uint8.

        Raises:
            ImportError: numpy or pillow isn't installed.
        """
        return pixels_of(await self._content())

    async def overlay(self) -> Picture:
        """Get the image with the outlines of all its regions."""
        return Picture(await self._connection.get_bytes(f"{self._path}/overlay.png"))

    # What it shows

    async def labels(self, labels: Optional[Sequence[str]] = None, *, templates: Sequence[str] = ()) -> Labels:
        """Classify the image and each of its regions.

        Args:
            labels: to choose from; the profile's if None.
            templates: prompts that contain `{label}`, whose vectors are averaged; the profile's if left out.
        """
        params = {"label": list(labels or ()), "template": list(templates)}
        return await self._connection.get(f"{self._path}/labels", partial(decoded, Labels), params)

    async def probe(self, concepts: Sequence[str]) -> Concepts:
        """Score how well concepts match the image and each of its regions."""
        body = {"concepts": list(concepts)}
        call = Call(method="POST", path=f"{self._path}/probe", read=calls.read_as(Concepts), json=body)
        return await self._connection.send(call)

    async def regions(self, text: Optional[str] = None) -> List[AsyncRegion]:
        """Get the regions, most confident first.

        Args:
            text: only those that match it, best match first; none, if the image doesn't show it.
        """
        included = self.raw.get("regions")
        if text is None and included is not None:
            return self._regions_in({"data": included})
        return await self._connection.get(f"{self._path}/regions", self._regions_in, {"text": text, "as": FORMS})

    async def find(self, text: str) -> Optional[AsyncRegion]:
        """Find the region that matches a text best; None, if the image doesn't show it."""
        return next(iter(await self.regions(text)), None)

    async def region(self, region_id: int) -> AsyncRegion:
        """Get a region by its id.

        Raises:
            NotFound: there is no such region.
        """
        return await self._connection.get(f"{self._path}/regions/{region_id}", self._region_in)

    async def region_at(self, *points: Point, box: Optional[BoxPrompt] = None) -> AsyncRegion:
        """Segment what lies at points, in a box, or both. The region is kept with the image.

        Args:
            points: x and y in pixels, and False for one that lies outside of the region.
            box: x0, y0, x1, y1 in pixels.
        """
        body = calls.without_none({**calls.prompt_fields(points, box), "as": FORMS})
        call = Call(
            method="POST",
            path=f"{self._path}/regions",
            read=lambda response: self._regions_in(response.json())[0],
            json=body,
        )
        return await self._connection.send(call)

    async def coco(self, text: Optional[str] = None) -> Dict[str, Any]:
        """Get the regions in COCO's object detection format, which `pycocotools.coco.COCO` loads.

        Args:
            text: only those that match it.
        """
        path, read = f"{self._path}/regions.coco.json", partial(decoded, Dict[str, Any])
        return await self._connection.get(path, read, {"text": text})

    # New images from it

    async def vary(
        self,
        *,
        n: int = 1,
        strength: Optional[float] = None,
        prompt: Optional[str] = None,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        seeds: Optional[Sequence[int]] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        scheduler: Optional[Scheduler] = None,
        deterministic: Optional[bool] = None,
        metadata: Optional[Mapping[str, str]] = None,
        tags: Optional[Sequence[str]] = None,
        include: Sequence[Include] = (),
        progress: bool = False,
        on_progress: Optional[OnProgress] = None,
    ) -> List[AsyncImage]:
        """Generate variations of the image and wait for them. An exception or a cancellation cancels their jobs.

        Args:
            n: number of images, 1 to 10.
            strength: how much may change, above 0 to 1; 0.6 if None.
            prompt: the image's own if None, or what it shows.
            negative_prompt: what the images are not to show.
            seed: of the first image, random if None; each further one has the next.
            seeds: one for each image, instead of `n` and `seed`.
            steps: denoising steps.
            guidance: classifier-free guidance scale.
            scheduler: of the denoising.
            deterministic: whether images are bit-identical under any load.
            metadata: your own values by key, for each image.
            tags: your own tags, for each image.
            include: what to get of each image at once: its content, labels, regions.
            progress: whether to show a bar on stderr, if it is a terminal.
            on_progress: called when an image is accepted, as its step 0, and after each step.
        """
        body = {
            **calls.number_of_images(n, seed, seeds),
            **calls.parameters(negative_prompt, steps, guidance, scheduler, deterministic, metadata, tags),
            "prompt": prompt,
            "strength": strength,
        }
        return await self._generate("variations", body, Reporter(on_progress, progress), include)

    async def submit_variations(
        self,
        *,
        n: int = 1,
        strength: Optional[float] = None,
        prompt: Optional[str] = None,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        seeds: Optional[Sequence[int]] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        scheduler: Optional[Scheduler] = None,
        deterministic: Optional[bool] = None,
        metadata: Optional[Mapping[str, str]] = None,
        tags: Optional[Sequence[str]] = None,
    ) -> List[Job]:
        """Submit variations of the image, without waiting for them; the arguments are those of `vary`."""
        body = {
            **calls.number_of_images(n, seed, seeds),
            **calls.parameters(negative_prompt, steps, guidance, scheduler, deterministic, metadata, tags),
            "prompt": prompt,
            "strength": strength,
        }
        return await self._submit("variations", body)

    async def edit(
        self,
        prompt: str,
        *,
        region: Union[RegionFields, int, Sequence[Union[RegionFields, int]], None] = None,
        text: Optional[str] = None,
        mask: Optional[PictureSource] = None,
        points: Sequence[Point] = (),
        box: Optional[BoxPrompt] = None,
        strength: Optional[float] = None,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        scheduler: Optional[Scheduler] = None,
        deterministic: Optional[bool] = None,
        metadata: Optional[Mapping[str, str]] = None,
        tags: Optional[Sequence[str]] = None,
        include: Sequence[Include] = (),
        progress: bool = False,
        on_progress: Optional[OnProgress] = None,
    ) -> AsyncImage:
        """Edit a part of the image, and wait for the result; without a part, all of it.

        An exception or a cancellation cancels the job.

        Args:
            prompt: what to show there.
            region: a region, its id, or several.
            text: or what to find and change, such as "apple".
            mask: or a picture of the image's size, white where it may change; a bool array (h, w) is one.
            points: or points of what to change: x and y in pixels, and False for one that lies outside.
            box: or a box around it, x0, y0, x1, y1 in pixels; also together with points.
            strength: how much may change there, above 0 to 1; 1 if None.
            negative_prompt: what the image is not to show.
            seed: random if None.
            steps: denoising steps.
            guidance: classifier-free guidance scale.
            scheduler: of the denoising.
            deterministic: whether the image is bit-identical under any load.
            metadata: your own values by key, for the new image.
            tags: your own tags, for the new image.
            include: what to get of the new image at once: its content, labels, regions.
            progress: whether to show a bar on stderr, if it is a terminal.
            on_progress: called when it is accepted, as step 0, and after each step.

        Raises:
            ValueError: more than one part is given, or a region of another image.
        """
        body = {
            **calls.parameters(negative_prompt, steps, guidance, scheduler, deterministic, metadata, tags),
            "prompt": prompt,
            "seed": seed,
            "area": edit_area(self.image_id, region, text, mask, points, box),
            "strength": strength,
        }
        (edited,) = await self._generate("edits", body, Reporter(on_progress, progress), include)
        return edited

    async def edit_many(
        self,
        prompt: str,
        *,
        n: Optional[int] = None,
        seeds: Optional[Sequence[int]] = None,
        region: Union[RegionFields, int, Sequence[Union[RegionFields, int]], None] = None,
        text: Optional[str] = None,
        mask: Optional[PictureSource] = None,
        points: Sequence[Point] = (),
        box: Optional[BoxPrompt] = None,
        strength: Optional[float] = None,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        scheduler: Optional[Scheduler] = None,
        deterministic: Optional[bool] = None,
        metadata: Optional[Mapping[str, str]] = None,
        tags: Optional[Sequence[str]] = None,
        include: Sequence[Include] = (),
        progress: bool = False,
        on_progress: Optional[OnProgress] = None,
    ) -> List[AsyncImage]:
        """Edit a part of the image in several ways; the further arguments are those of `edit`.

        Args:
            prompt: what to show there.
            n: number of images, 1 to 10, with consecutive seeds.
            seeds: or one for each image.
        """
        body = {
            **calls.number_of_images(n, seed, seeds),
            **calls.parameters(negative_prompt, steps, guidance, scheduler, deterministic, metadata, tags),
            "prompt": prompt,
            "area": edit_area(self.image_id, region, text, mask, points, box),
            "strength": strength,
        }
        return await self._generate("edits", body, Reporter(on_progress, progress), include)

    async def submit_edits(
        self,
        prompt: str,
        *,
        n: int = 1,
        seeds: Optional[Sequence[int]] = None,
        region: Union[RegionFields, int, Sequence[Union[RegionFields, int]], None] = None,
        text: Optional[str] = None,
        mask: Optional[PictureSource] = None,
        points: Sequence[Point] = (),
        box: Optional[BoxPrompt] = None,
        strength: Optional[float] = None,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        scheduler: Optional[Scheduler] = None,
        deterministic: Optional[bool] = None,
        metadata: Optional[Mapping[str, str]] = None,
        tags: Optional[Sequence[str]] = None,
    ) -> List[Job]:
        """Submit edits of a part of the image, without waiting for them; the arguments are those of `edit_many`."""
        body = {
            **calls.number_of_images(n, seed, seeds),
            **calls.parameters(negative_prompt, steps, guidance, scheduler, deterministic, metadata, tags),
            "prompt": prompt,
            "area": edit_area(self.image_id, region, text, mask, points, box),
            "strength": strength,
        }
        return await self._submit("edits", body)

    # Itself

    async def update(
        self, *, metadata: Optional[Mapping[str, Optional[str]]] = None, tags: Optional[Sequence[str]] = None
    ) -> AsyncImage:
        """Change its metadata and tags.

        Args:
            metadata: values to set by key, None to delete a key; others stay.
            tags: replace the tags.

        Returns:
            The image as it is then.
        """
        return await self._connection.send(update_of(self._connection, self.image_id, metadata, tags))

    async def delete(self) -> None:
        """Delete the image and everything computed from it; nothing happens if it is deleted already."""
        await self._connection.send(Call(method="DELETE", path=self._path, read=lambda _: None))

    @property
    def _path(self) -> str:
        return f"/v1/images/{self.image_id}"

    async def _content(self) -> Bytes:
        included = self.included_content
        return await self.bytes() if included is None else included

    async def _generate(
        self, kind: str, body: Mapping[str, Any], reporter: Reporter, include: Sequence[Include]
    ) -> List[AsyncImage]:
        call = calls.creation(f"{self._path}/{kind}", body)
        return await self._connection.generate(call, partial(AsyncImage.of, self._connection), reporter, include)

    async def _submit(self, kind: str, body: Mapping[str, Any]) -> List[Job]:
        accepted = await self._connection.send(calls.creation(f"{self._path}/{kind}", body))
        return list(accepted.jobs)

    def _regions_in(self, payload: Mapping[str, Any]) -> List[AsyncRegion]:
        return [AsyncRegion.of(self, region) for region in region_payloads(self.image_id, payload)]

    def _region_in(self, payload: Mapping[str, Any]) -> AsyncRegion:
        return AsyncRegion.of(self, {**payload, "image_id": self.image_id})

    def _repr_png_(self) -> Optional[Bytes]:
        return displayed(self.included_content, lambda: self.bytes(max_side=THUMBNAIL))

    def _repr_html_(self) -> str:
        return self.html(self._repr_png_())


class AsyncRegion(RegionFields):
    """A region of an image, and what can be done with it.

    Every method that sends a request raises `PipelineError`.
    """

    _image: AsyncImage

    @classmethod
    def of(cls, image: AsyncImage, payload: Mapping[str, Any]) -> AsyncRegion:
        """Return the region of an image that a JSON object describes."""
        region = decoded(cls, payload)
        object.__setattr__(region, "_image", image)  # it is frozen
        return region

    async def cutout(self, padding: int = 0) -> Picture:
        """Get the region alone: RGBA, cropped to its box, and transparent around the region.

        Args:
            padding: pixels around the box.
        """
        return await self._drawn("cutout.png", {"padding": padding})

    async def spotlight(self) -> Picture:
        """Get the image with everything outside of the region dimmed."""
        return await self._drawn("spotlight.png")

    async def mask_picture(self) -> Picture:
        """Get the mask as a picture of the image's size, white where the region is."""
        return await self._drawn("mask.png")

    async def edit(
        self,
        prompt: str,
        *,
        strength: Optional[float] = None,
        negative_prompt: Optional[str] = None,
        seed: Optional[int] = None,
        steps: Optional[int] = None,
        guidance: Optional[float] = None,
        scheduler: Optional[Scheduler] = None,
        deterministic: Optional[bool] = None,
        metadata: Optional[Mapping[str, str]] = None,
        tags: Optional[Sequence[str]] = None,
        include: Sequence[Include] = (),
        progress: bool = False,
        on_progress: Optional[OnProgress] = None,
    ) -> AsyncImage:
        """Edit the region, and wait for the new image; the arguments are those of `Image.edit`."""
        return await self._image.edit(
            prompt,
            region=self,
            strength=strength,
            negative_prompt=negative_prompt,
            seed=seed,
            steps=steps,
            guidance=guidance,
            scheduler=scheduler,
            deterministic=deterministic,
            metadata=metadata,
            tags=tags,
            include=include,
            progress=progress,
            on_progress=on_progress,
        )

    async def _drawn(self, name: str, params: Optional[Mapping[str, Any]] = None) -> Picture:
        path = f"/v1/images/{self.image_id}/regions/{self.region_id}/{name}"
        return Picture(await self._image._connection.get_bytes(path, params))

    async def _cutout_bytes(self) -> Bytes:
        return (await self.cutout()).data

    def _repr_png_(self) -> Optional[Bytes]:
        return displayed(None, self._cutout_bytes)


def update_of(
    connection: AsyncConnection,
    image_id: str,
    metadata: Optional[Mapping[str, Optional[str]]],
    tags: Optional[Sequence[str]],
) -> Call[AsyncImage]:
    """Return the call that changes the metadata and tags of an image."""
    return Call(
        method="PATCH",
        path=f"/v1/images/{image_id}",
        read=lambda response: AsyncImage.of(connection, response.json()),
        json=calls.without_none({"metadata": metadata, "tags": None if tags is None else list(tags)}),
    )
