"""Images as responses have them: with their pixels, labels and regions, if included."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

from fastapi import Query

from graphs.concurrency import task_group
from graphs.generation.service import GeneratedImage
from graphs.http.context import Caller
from graphs.http.pagination import SplitCommas
from graphs.http.schemas.common import base64_text
from graphs.http.schemas.creation import Include
from graphs.http.schemas.images import CreatedImages, Image
from graphs.http.schemas.regions import MaskForm, Region, regions_of
from graphs.http.schemas.segments import labels_of
from graphs.services import Services
from pipeline.answer_warnings import image_warnings
from pipeline.errors import PipelineError
from pipeline.records import Description, Encoding, ImageFormat, ImageRecord

Included = Annotated[
    Sequence[Include],
    SplitCommas,
    Query(description="What the response has beside how the image was made; repeat it for several."),
]


@contextmanager
def naming(records: Sequence[ImageRecord]) -> Iterator[None]:
    """Name images, which are stored, in the error of a block that includes what they show."""
    try:
        yield
    except PipelineError as error:
        error.facts["image_ids"] = [record.image_id for record in records]
        raise


async def image_response(
    services: Services,
    record: ImageRecord,
    caller: Caller,
    include: Collection[Include] = (),
    format_: ImageFormat = ImageFormat.PNG,
    description: Description | None = None,
) -> Image:
    """Return an image with what is included, computed if need be.

    Args:
        format_: of the content.
        description: of the whole image, if it is known.

    Raises:
        Overloaded: too many analyses are running already.
        ModelNotReady, StageFailed, WorkerLost: from the workers.
    """
    if not include:
        return Image.of(record, image_warnings(services.profile, record, description))

    async def describe() -> Description | None:
        is_wanted = Include.LABELS in include and description is None
        return await services.stages.describe(record, caller.request_id) if is_wanted else description

    async def regions() -> list[Region] | None:
        if Include.REGIONS not in include:
            return None
        found = await services.regions.all(record, caller.request_id)
        return await asyncio.to_thread(regions_of, record.image_id, found, [MaskForm.RLE])

    async def content() -> str | None:
        if Include.CONTENT not in include:
            return None
        encoded = await services.images.encoded(record, Encoding(format=format_), caller.request_id)
        return base64_text(encoded)

    async with task_group() as group:
        describing, segmenting = group.create_task(describe()), group.create_task(regions())
        encoding = group.create_task(content())
    found = describing.result()
    return Image.of(
        record,
        image_warnings(services.profile, record, found),
        labels=labels_of(found) if found and Include.LABELS in include else None,
        regions=segmenting.result(),
        content_b64=encoding.result(),
    )


async def created_images(
    services: Services,
    generated: Sequence[GeneratedImage],
    caller: Caller,
    include: Collection[Include] = (),
    format_: ImageFormat = ImageFormat.PNG,
) -> CreatedImages:
    """Return new images with what is included."""
    with naming([each.record for each in generated]):
        async with task_group() as group:
            tasks = [
                group.create_task(image_response(services, each.record, caller, include, format_, each.description))
                for each in generated
            ]
    images = [task.result() for task in tasks]
    older = [image.without_included() for image in images]
    return CreatedImages(request_id=caller.request_id, data=images, images=older)
