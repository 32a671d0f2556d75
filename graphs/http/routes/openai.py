"""OpenAI's Images, Embeddings and Models API."""

from __future__ import annotations

import hashlib
import time
from base64 import b64decode
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.sse import format_sse_event
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import Response

from graphs.concurrency import task_group
from graphs.generation.requests import to_request, with_consecutive_seeds
from graphs.generation.service import GeneratedImage
from graphs.http.context import Caller, CallerDep, KeyDep, KeyHeader, ServicesDep, idempotency_key, job_specs
from graphs.http.errors import EDITS, EMBEDDINGS, GENERATIONS, MODELS, openai_error_responses
from graphs.http.responses import JsonRoute, json_response
from graphs.http.schemas.analysis import Embeddings, EmbeddingsBody, ImageReference, embeddings
from graphs.http.schemas.common import base64_text
from graphs.http.schemas.generation import MAX_PROMPT_CHARS
from graphs.http.schemas.models import ModelDetails
from graphs.http.schemas.openai import (
    EditsForm,
    GenerationsBody,
    ImageData,
    ImagesBody,
    ImagesResponse,
    Model,
    Models,
    Usage,
    check_size,
    picture_tokens,
)
from graphs.http.sse import EVENT_STREAM, sse_response
from graphs.services import Services
from graphs.workers.handles import TextModelName
from pipeline.errors import InvalidRequest, InvalidUpload, ModelNotFound, PipelineError
from pipeline.event_records import STEPPED, EventRecord
from pipeline.imaging.codecs import decode_png
from pipeline.imaging.masks import Mask
from pipeline.jobs import IdempotencyKey
from pipeline.records import Encoding, GenerationRequest, ImageFormat, ImageRecord

Kind = Literal["image_generation", "image_edit"]  # what the events of a stream are called

NOT_STORED_YET = ""  # the id of a picture until its request is known to be good
EDIT_STRENGTH = 0.8  # without a mask: enough to change what is there, and to keep where it is
OWNED_BY = "ai-pipeline"
MAX_FIELDS = 64
LONG_TEXT = "a " * (MAX_PROMPT_CHARS // 2)

_PROBLEMS = openai_error_responses(400, 401, 404, 409, 413, 429, 500, 503, 504)
_ANSWERS: dict[int | str, dict[str, Any]] = _PROBLEMS | {
    200: {
        "model": ImagesResponse,
        "content": {EVENT_STREAM: {"schema": {"type": "string"}}},
        "description": "The images; with `stream`, events with previews and the image",
    }
}
_FILE = {"type": "string", "format": "binary"}


def _form_body() -> dict[str, Any]:
    schema = EditsForm.model_json_schema(ref_template="#/components/schemas/{model}")  # other bodies' too
    del schema["$defs"]
    schema["properties"] |= {"image": _FILE, "mask": _FILE}
    schema["required"] = [*schema["required"], "image"]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


router = APIRouter(route_class=JsonRoute, tags=["OpenAI"])


@router.post(GENERATIONS, responses=_ANSWERS)
async def openai_generate_images(
    body: GenerationsBody, request: Request, services: ServicesDep, caller: CallerDep, key: KeyDep
) -> Response:
    """Make images of a text; with `stream`, `partial_images` previews come while they are denoised."""
    text_tokens = await _check(services, body, caller)
    diffusion = services.profile.diffusion
    width, height = body.wanted_size or (diffusion.defaults.width, diffusion.defaults.height)
    wanted = await services.generation.find_request(caller.owner, key)
    if wanted is None:
        wanted = to_request(body.parameters(diffusion).options, diffusion, body.prompt, width, height)
    writer = _ResponseWriter(services, wanted, body, text_tokens, request, caller)
    return await _generate("image_generation", writer, request, caller, key)


@router.post(EDITS, responses=_ANSWERS, openapi_extra=_form_body())
async def openai_edit_images(
    request: Request, services: ServicesDep, caller: CallerDep, key: KeyHeader = None
) -> Response:
    """Change an image: where `mask` is transparent, or the image itself is, else everywhere."""
    form = await _read_form(request)
    bound_key = idempotency_key(request, key, form.fingerprint)
    text_tokens = await _check(services, form.fields, caller)
    with services.generation.admission.admit(caller.request_id):  # nothing is stored for a request that is refused
        wanted = await services.generation.find_request(caller.owner, bound_key)
        if wanted is None:
            wanted = await _edit_request(services, form, caller)
        writer = _ResponseWriter(services, wanted, form.fields, text_tokens, request, caller)
        return await _generate("image_edit", writer, request, caller, bound_key)


@router.post(EMBEDDINGS, response_model=Embeddings, responses=_PROBLEMS)
async def openai_create_embeddings(body: EmbeddingsBody, services: ServicesDep, caller: CallerDep) -> Response:
    """CLIP's vectors of texts, and of one's images: the input may hold `{"image_id": …}` as well."""
    embedding_model = _embedding_model(services)
    if body.model not in (None, embedding_model):
        raise ModelNotFound(model=body.model, known=embedding_model, param="model")
    ids = {str(item.image_id) for item in body.inputs if isinstance(item, ImageReference)}
    records = {id_: await services.images.find(id_, owner=caller.owner, session="") for id_ in ids}
    inputs = [records[str(item.image_id)] if isinstance(item, ImageReference) else item for item in body.inputs]
    texts = [item for item in body.inputs if isinstance(item, str)]
    tokens = await services.queries.count_tokens("Clip", texts, caller.request_id)
    vectors = await services.queries.embed(inputs, caller.request_id)
    return json_response(embeddings(vectors, body.encoding_format, model=embedding_model, tokens=tokens))


@router.get(MODELS, response_model=Models, responses=openai_error_responses(401, 429, 503))
async def openai_list_models(services: ServicesDep, _: CallerDep) -> Response:
    """List the models: those that make images, and the one that makes vectors."""
    return json_response(Models(data=[*_models(services).values()]))


@router.get(f"{MODELS}/{{model}}", response_model=ModelDetails, responses=openai_error_responses(401, 404, 429, 503))
async def openai_get_model(
    model: Annotated[str, Path(description="Name of the model.")], services: ServicesDep, caller: CallerDep
) -> Response:
    """Return one model with its capabilities, defaults, limits, schedulers and labels."""
    known = _models(services)
    if model not in known:
        raise ModelNotFound(model=model, known=" or ".join(known), param="model")
    makes_images = model in _image_models(services)
    part: TextModelName = "Diffusion" if makes_images else "Clip"
    describe = ModelDetails.of_images if makes_images else ModelDetails.of_embeddings
    status = (await services.models.statuses())[part]
    details = describe(
        known[model],
        services.profile,
        services.settings,
        fingerprint=status.fingerprint or None,
        max_prompt_tokens=await _max_tokens(services, part, caller) if status.ready else None,
    )
    return json_response(details)


async def _max_tokens(services: Services, part: TextModelName, caller: Caller) -> int | None:
    """Return the number of tokens that a model makes of a text that is longer than it reads; None if it is lost."""
    try:
        return await services.queries.count_tokens(part, [LONG_TEXT], caller.request_id)
    except PipelineError:
        return None


def _image_models(services: Services) -> tuple[str, ...]:
    """Names that the diffusion model answers to, its own first."""
    return (services.profile.name, *services.settings.model_aliases)


def _embedding_model(services: Services) -> str:
    return f"{services.profile.name}-clip"


def _models(services: Services) -> dict[str, Model]:
    names = (*_image_models(services), _embedding_model(services))
    return {name: Model(id=name, created=int(services.started_at), owned_by=OWNED_BY) for name in names}


async def _check(services: Services, body: ImagesBody, caller: Caller) -> int:
    """Check that a request can be done; count its texts' tokens before anything is stored or made.

    Raises:
        ModelNotFound: the model isn't here.
        InvalidRequest: the size is outside of what the profile allows.
    """
    models = _image_models(services)
    if body.model is not None and body.model not in models:
        raise ModelNotFound(model=body.model, known=" or ".join(models), param="model")
    check_size(body.wanted_size, services.profile.diffusion)
    texts = [text for text in (body.prompt, body.negative_prompt) if text]
    return await services.queries.count_tokens("Diffusion", texts, caller.request_id)


async def _edit_request(services: Services, form: _Form, caller: Caller) -> GenerationRequest:
    """Store the picture as an image of the caller's, as an edit can be done again only with it; the request for it.

    Raises:
        InvalidRequest: a value is outside of what the profile allows, or the mask can't be used.
        InvalidUpload: the picture can't be used.
    """
    fields = form.fields
    upload = await services.images.decode_upload(form.image, caller.request_id)
    height, width = upload.pixels.shape[:2]
    area = upload.transparent if form.mask is None else await _transparent(services, form.mask, caller)
    wanted = await services.edits.from_image(
        (width, height),
        NOT_STORED_YET,
        fields.parameters(services.profile.diffusion).options,
        fields.prompt,
        fields.strength or (EDIT_STRENGTH if area is None else 1.0),
        area,
        fields.wanted_size,
    )
    record = await services.images.add_upload(upload, owner=caller.owner, sessions=(), request_id=caller.request_id)
    return wanted.made_from(record.image_id)


async def _transparent(services: Services, mask: bytes, caller: Caller) -> Mask:
    transparent = (await services.images.decode_upload(mask, caller.request_id)).transparent
    if transparent is None:
        raise InvalidRequest(
            problem="The mask has no transparency. Send a PNG that is transparent where the image is to change.",
            param="mask",
        )
    return transparent


async def _generate(
    kind: Kind, writer: _ResponseWriter, request: Request, caller: Caller, key: IdempotencyKey | None
) -> Response:
    specs = job_specs(with_consecutive_seeds(writer.wanted, writer.body.images), caller, key)
    generation = writer.services.generation
    if writer.body.stream:
        events = writer.events(kind, generation.stream(specs, previews=bool(writer.body.partial_images)))
        response = await sse_response(request.scope, events, bytes)
    else:
        response = json_response(await writer.response(await generation.run(specs)))
    return response


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """What a form holds."""

    fields: EditsForm
    image: bytes
    mask: bytes | None

    @property
    def fingerprint(self) -> bytes:
        """The same for the same form, whatever its boundary."""
        files = [hashlib.sha256(file or b"").hexdigest() for file in (self.image, self.mask)]
        return orjson.dumps([self.fields.model_dump(mode="json"), files])


async def _read_form(request: Request) -> _Form:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidRequest(problem="Send multipart/form-data with the files image and mask, and a prompt.")
    fields: dict[str, str] = {}
    files: dict[str, list[bytes]] = {"image": [], "mask": []}
    try:
        async with request.form(max_files=MAX_FIELDS, max_fields=MAX_FIELDS) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    files.setdefault(name.removesuffix("[]"), []).append(await value.read())
                else:
                    fields[name] = value
    except (HTTPException, UnicodeError) as error:
        reason = error.detail if isinstance(error, HTTPException) else error
        raise InvalidUpload(problem=f"The form can't be read ({reason}).") from None
    if unknown := files.keys() - {"image", "mask"}:
        raise InvalidRequest(problem=f"There is no file {', '.join(sorted(unknown))}. Send image and mask.")
    if len(files["image"]) != 1:
        raise InvalidRequest(problem=f"{len(files['image'])} images: send exactly one, as a file.", param="image")
    if len(files["mask"]) > 1:
        raise InvalidRequest(problem="There is more than one mask: send one at most.", param="mask")
    try:
        sent = EditsForm.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    return _Form(fields=sent, image=files["image"][0], mask=next(iter(files["mask"]), None))


class _ResponseWriter:
    """Writes the response to one request: all images at once, or previews on the way and the image last.

    Args:
        wanted: the request for the first of the images.
        body: how they are to be sent.
        text_tokens: of the prompts, counted before anything is made: a count that fails must not cost an image.
    """

    def __init__(
        self,
        services: Services,
        wanted: GenerationRequest,
        body: ImagesBody,
        text_tokens: int,
        request: Request,
        caller: Caller,
    ) -> None:
        self.services = services
        self.wanted = wanted
        self.body = body
        self._text_tokens = text_tokens
        self._request_id = caller.request_id
        self._base_url = (services.settings.public_url or str(request.base_url)).rstrip("/")
        self._previews_sent = 0

    async def response(self, generated: Sequence[GeneratedImage]) -> ImagesResponse:
        """All images at once."""
        records = [each.record for each in generated]
        async with task_group() as group:
            writing = [group.create_task(self._data(record)) for record in records]
        return ImagesResponse(
            created=int(records[0].created_at.timestamp()),
            data=[written.result() for written in writing],
            output_format=self.body.format,
            quality=self.body.said_quality,
            size=self._size,
            usage=self._usage(len(records)),
            warnings=list(self.services.generation.warnings(generated[0])),
        )

    async def events(
        self, kind: Kind, items: AsyncGenerator[EventRecord | list[GeneratedImage], None]
    ) -> AsyncGenerator[bytes, None]:
        """The events of one image; the first bytes are a comment that says that it was accepted."""
        is_accepted = False
        async with aclosing(items):
            async for item in items:
                if not is_accepted:
                    is_accepted = True
                    yield format_sse_event(comment="accepted")
                if isinstance(item, list):
                    (generated,) = item
                    image, usage = await self._encoded(generated.record), self._usage(1)
                    facts = {"usage": usage.model_dump(), "warnings": self.services.generation.warnings(generated)}
                    yield self._event(f"{kind}.completed", image, image_id=generated.record.image_id, **facts)
                elif item.type == STEPPED and self._is_due(item):
                    index, self._previews_sent = self._previews_sent, self._previews_sent + 1
                    yield self._event(f"{kind}.partial_image", await self._preview(item), partial_image_index=index)

    def _is_due(self, stepped: EventRecord) -> bool:
        """Whether a step is one of those, evenly spread, whose previews are wanted; after the last comes the image."""
        step, num_steps = stepped.payload["step"], stepped.payload["num_steps"]
        wanted = self.body.partial_images or 0
        if not stepped.payload["preview"] or self._previews_sent >= wanted or step >= num_steps:
            return False
        return bool(step * (wanted + 1) >= (self._previews_sent + 1) * num_steps)

    async def _preview(self, stepped: EventRecord) -> bytes:
        """A preview at the image's size."""
        pixels = decode_png(b64decode(stepped.payload["preview"]))
        size = self.wanted.width, self.wanted.height
        encoding = Encoding(format=self.body.format, size=size, quality=self.body.compression)
        return await self.services.images.encode(pixels, encoding, self._request_id)

    async def _encoded(self, record: ImageRecord) -> bytes:
        if self.body.format is ImageFormat.PNG:
            return await self.services.images.png(record)
        encoding = Encoding(format=self.body.format, quality=self.body.compression)
        return await self.services.images.encoded(record, encoding, self._request_id)

    async def _data(self, record: ImageRecord) -> ImageData:
        seed = 0 if record.request is None else record.request.seed
        if self.body.response_format == "url":
            query = "" if self.body.format is ImageFormat.PNG else f"?format={self.body.format.value}"
            if query and self.body.compression != Encoding().quality:
                query += f"&quality={self.body.compression}"
            url = f"{self._base_url}/v1/images/{record.image_id}/content{query}"
            return ImageData(url=url, image_id=record.image_id, seed=seed)
        return ImageData(b64_json=base64_text(await self._encoded(record)), image_id=record.image_id, seed=seed)

    def _usage(self, images: int) -> Usage:
        each = picture_tokens(self.wanted.width, self.wanted.height)
        return Usage.of(
            text=self._text_tokens,
            image=each if self.wanted.source else 0,
            output=images * each,
        )

    @property
    def _size(self) -> str:
        return f"{self.wanted.width}x{self.wanted.height}"

    def _event(self, name: str, image: bytes, **facts: Any) -> bytes:
        body = {
            "type": name,
            "b64_json": base64_text(image),
            "created_at": int(time.time()),
            "background": "opaque",
            "output_format": self.body.format.value,
            "quality": self.body.said_quality,
            "size": self._size,
        }
        return format_sse_event(event=name, data_str=orjson.dumps(body | facts).decode())
