"""What OpenAI's clients get of the images they asked for: all at once, or previews on the way and the image last."""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Literal

import orjson
from fastapi.sse import format_sse_event

from graphs.concurrency import task_group
from graphs.flow import Flow
from graphs.http.schemas.common import base64_text
from graphs.http.schemas.openai import ImageData, ImagesBody, ImagesResponse, Usage, picture_tokens
from pipeline.images import decode_png
from pipeline.notices import STEPPED, Notice
from pipeline.records import Encoding, GenerationRequest, ImageFormat, ImageRecord

Kind = Literal["image_generation", "image_edit"]  # what the events of a stream are called


class OpenAIAnswer:
    """Writes the answer to one request.

    Args:
        wanted: the first of the images.
        body: how they are to be answered.
        text_tokens: of the prompts, counted before anything is made: a count that fails must not cost an image.
        base_url: where clients reach the service.
    """

    def __init__(
        self,
        flow: Flow,
        wanted: GenerationRequest,
        body: ImagesBody,
        *,
        text_tokens: int,
        request_id: str,
        base_url: str,
    ) -> None:
        self._flow = flow
        self._wanted = wanted
        self._body = body
        self._text_tokens = text_tokens
        self._request_id = request_id
        self._base_url = base_url.rstrip("/")
        self._previews_sent = 0

    async def response(self, records: Sequence[ImageRecord]) -> ImagesResponse:
        """All images at once."""
        async with task_group() as group:
            writing = [group.create_task(self._data(record)) for record in records]
        return ImagesResponse(
            created=int(records[0].created_at.timestamp()),
            data=[written.result() for written in writing],
            output_format=self._body.format,
            quality=self._body.said_quality,
            size=self._size,
            usage=self._usage(len(records)),
            warnings=list(self._flow.warnings(records[0])),
        )

    async def events(
        self, kind: Kind, items: AsyncGenerator[Notice | list[ImageRecord], None]
    ) -> AsyncGenerator[bytes, None]:
        """The events of one image; the first bytes are a comment that says that it was accepted."""
        is_accepted = False
        async with aclosing(items):
            async for item in items:
                if not is_accepted:
                    is_accepted = True
                    yield format_sse_event(comment="accepted")
                if isinstance(item, list):
                    (record,) = item
                    image, usage = await self._encoded(record), self._usage(1)
                    facts = {"usage": usage.model_dump(), "warnings": self._flow.warnings(record)}
                    yield self._event(f"{kind}.completed", image, image_id=record.image_id, **facts)
                elif item.type == STEPPED and self._is_due(item):
                    index, self._previews_sent = self._previews_sent, self._previews_sent + 1
                    yield self._event(f"{kind}.partial_image", await self._preview(item), partial_image_index=index)

    def _is_due(self, stepped: Notice) -> bool:
        """Whether a step is one of those, evenly spread, whose previews are wanted; after the last comes the image."""
        step, num_steps = stepped.payload["step"], stepped.payload["num_steps"]
        wanted = self._body.partial_images or 0
        if not stepped.payload["preview"] or self._previews_sent >= wanted or step >= num_steps:
            return False
        return bool(step * (wanted + 1) >= (self._previews_sent + 1) * num_steps)

    async def _preview(self, stepped: Notice) -> bytes:
        """A preview at the image's size."""
        pixels = decode_png(b64decode(stepped.payload["preview"]))
        size = self._wanted.width, self._wanted.height
        encoding = Encoding(format=self._body.format, size=size, quality=self._body.compression)
        return await self._flow.images.encode(pixels, encoding, self._request_id)

    async def _encoded(self, record: ImageRecord) -> bytes:
        if self._body.format is ImageFormat.PNG:
            return await self._flow.images.png(record)
        encoding = Encoding(format=self._body.format, quality=self._body.compression)
        return await self._flow.encoded(record, encoding, self._request_id)

    async def _data(self, record: ImageRecord) -> ImageData:
        seed = 0 if record.request is None else record.request.seed
        if self._body.response_format == "url":
            query = "" if self._body.format is ImageFormat.PNG else f"?format={self._body.format.value}"
            if query and self._body.compression != Encoding().quality:
                query += f"&quality={self._body.compression}"
            url = f"{self._base_url}/v1/images/{record.image_id}/content{query}"
            return ImageData(url=url, image_id=record.image_id, seed=seed)
        return ImageData(b64_json=base64_text(await self._encoded(record)), image_id=record.image_id, seed=seed)

    def _usage(self, images: int) -> Usage:
        each = picture_tokens(self._wanted.width, self._wanted.height)
        return Usage.of(
            text=self._text_tokens,
            image=each if self._wanted.source else 0,
            output=images * each,
        )

    @property
    def _size(self) -> str:
        return f"{self._wanted.width}x{self._wanted.height}"

    def _event(self, name: str, image: bytes, **facts: Any) -> bytes:
        body = {
            "type": name,
            "b64_json": base64_text(image),
            "created_at": int(time.time()),
            "background": "opaque",
            "output_format": self._body.format.value,
            "quality": self._body.said_quality,
            "size": self._size,
        }
        return format_sse_event(event=name, data_str=orjson.dumps(body | facts).decode())
