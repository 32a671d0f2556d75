"""Images as resources: create, upload, edit, list, read, delete."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from graphs.generation.edits import EditArea
from graphs.generation.requests import GenerationJobSpec, with_consecutive_seeds
from graphs.generation.service import GeneratedImage
from graphs.http.context import Caller, CallerDep, KeyDep, KeyHeader, ServicesDep, idempotency_key, job_specs
from graphs.http.errors import error_responses
from graphs.http.responses import (
    BYTES,
    PAGE,
    RESPOND_ASYNC,
    Before,
    ImageIdPath,
    Limit,
    V1Route,
    binary_content,
    content,
    is_known,
    json_response,
    not_modified,
    split_page,
)
from graphs.http.schemas.common import JobStatus
from graphs.http.schemas.generation import PlainText
from graphs.http.schemas.images import (
    AcceptedJobs,
    CreateBody,
    CreatedImages,
    EditsBody,
    History,
    StoredImage,
    Uploaded,
    VariationsBody,
)
from graphs.http.sse import EVENT_STREAM, as_event, sse_response
from graphs.http.validation import REFUSALS, media_type_of
from graphs.services import Services
from pipeline.answer_warnings import image_warnings
from pipeline.errors import ImageNotFound, InvalidRequest, InvalidUpload, UnsupportedMediaType
from pipeline.event_records import EventRecord
from pipeline.records import Encoding, ImageFormat, ImageRecord
from pipeline.store import ImageFilter

PICTURE_TYPES = ("image/png", "image/jpeg", "image/webp")
PICTURE_CONTENT = binary_content(*PICTURE_TYPES, BYTES)
BYTES_CONTENT = binary_content(BYTES)

MAKING_PROBLEMS = error_responses(400, 401, 404, 409, 413, 415, 422, 429, 500, 503, 504)
MAKING_ANSWERS: dict[int | str, dict[str, Any]] = MAKING_PROBLEMS | {
    201: {
        "model": CreatedImages,
        "description": "Made. With `Accept: text/event-stream` the status is 200, and this the last event.",
    },
    200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}, "description": "Events, with that `Accept`"},
    202: {"model": AcceptedJobs, "description": f"Accepted, with `Prefer: {RESPOND_ASYNC}`"},
}

_PICTURE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A form with one file, or the file itself, also as `image/png`, `image/jpeg` or `image/webp`.",
        "content": BYTES_CONTENT
        | {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            }
        },
    }
}

Prefer = Annotated[str, Header(description=f"`{RESPOND_ASYNC}` answers at once, with the jobs.")]


router = APIRouter(prefix="/v1/images", route_class=V1Route, tags=["images"], dependencies=REFUSALS)
edits_router = APIRouter(
    prefix="/v1/images/{image_id}",
    route_class=V1Route,
    tags=["images"],
    dependencies=REFUSALS,
)


@router.post("", status_code=201, responses=MAKING_ANSWERS)
async def create_images(
    body: CreateBody, request: Request, services: ServicesDep, caller: CallerDep, key: KeyDep, prefer: Prefer = ""
) -> Response:
    """Generate images from a text, with consecutive seeds, concurrently.

    With `Accept: text/event-stream` events come first, each with its `job_id`; with `Prefer: respond-async` the jobs
    are returned at once.
    """
    wanted = await services.generation.find_request(caller.owner, key) or body.resolve(services.profile.diffusion)
    specs = job_specs(with_consecutive_seeds(wanted, body.n), caller, key)
    return await _generate(services, specs, request, caller, prefer)


@router.post(
    "/upload",
    response_model=Uploaded,
    status_code=201,
    responses=error_responses(400, 401, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra=_PICTURE_BODY,
)
async def upload_image(request: Request, services: ServicesDep, caller: CallerDep, key: KeyHeader = None) -> Response:
    """Upload an image: PNG, JPEG or WebP, as the body or as a form's file."""
    picture = await _picture(request)
    uploaded = await services.images.upload(
        picture,
        owner=caller.owner,
        sessions=caller.sessions,
        request_id=caller.request_id,
        key=idempotency_key(request, key, picture),
    )
    kept = json_response(
        Uploaded(
            request_id=caller.request_id,
            image_id=uploaded.image_id,
            width=uploaded.width,
            height=uploaded.height,
        ),
        status_code=201,
    )
    kept.headers["Location"] = f"/v1/images/{uploaded.image_id}"
    return kept


@router.get("", response_model=History, responses=error_responses(401, 422, 429, 503))
async def list_images(
    services: ServicesDep,
    caller: CallerDep,
    limit: Limit = PAGE,
    before: Before = None,
    session: Annotated[PlainText | None, Query(max_length=128, description="Made in this session.")] = None,
    label: Annotated[PlainText | None, Query(max_length=128, description="One of the classes it shows.")] = None,
    prompt: Annotated[PlainText | None, Query(max_length=200, description="A part of its prompt.")] = None,
    since: Annotated[datetime | None, Query(description="Made then or later.")] = None,
    until: Annotated[datetime | None, Query(description="Made before.")] = None,
) -> Response:
    """List your images, newest first."""
    wanted = ImageFilter(session=session, label=label, prompt=prompt, since=_in_utc(since), until=_in_utc(until))
    records = await services.images.history(
        caller.owner, limit=limit + 1, before=str(before) if before else None, wanted=wanted
    )
    page, last = split_page(records, limit, lambda record: record.image_id)
    images = [StoredImage.of(record, image_warnings(services.profile, record)) for record in page]
    return json_response(History(images=images, next=last))


@router.get("/{image_id}", response_model=StoredImage, responses=error_responses(401, 404, 422, 429, 503))
async def get_image(image_id: ImageIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Return an image's metadata: how it was made, and its warnings."""
    record = await services.images.find(str(image_id), owner=caller.owner, session="")
    description = await services.stages.describe_known(record)
    return json_response(StoredImage.of(record, image_warnings(services.profile, record, description)))


@router.get(
    "/{image_id}/content",
    response_class=Response,
    responses=error_responses(401, 404, 422, 429, 503)
    | {
        200: {"content": PICTURE_CONTENT},
        206: {"description": "Partial Content", "content": PICTURE_CONTENT},
        304: {"description": "Not Modified"},
        416: {"description": "Range Not Satisfiable"},
    },
)
async def download_image(
    image_id: ImageIdPath,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    format_: Annotated[ImageFormat, Query(alias="format", description="Format of the file.")] = ImageFormat.PNG,
    size: Annotated[int | None, Query(ge=1, le=4096, description="Of the longer side, in pixels.")] = None,
    quality: Annotated[int, Query(ge=1, le=100, description="Of JPEG and WebP.")] = 90,
) -> Response:
    """Return an image's bytes, as PNG or otherwise. They never change, so clients may cache them for ever."""
    record = await services.images.find(str(image_id), owner=caller.owner, session="")
    encoding = _encoding(record, format_, size, quality)
    etag = record.digest if encoding == Encoding() else f"{record.digest}-{format_}-{size or 0}-{quality}"
    if is_known(request, etag):
        return not_modified(etag)
    body = await services.images.encoded(record, encoding, caller.request_id)
    return content(request, body, format_.media_type, etag)


@router.delete("/{image_id}", status_code=204, responses=error_responses(401, 404, 422, 429, 503))
async def delete_image(image_id: ImageIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Delete an image and everything computed from it. The response is 204 also if there is no such image any more."""
    with suppress(ImageNotFound):
        await services.images.delete(str(image_id), owner=caller.owner, request_id=caller.request_id)
    return Response(status_code=204)


@edits_router.post("/variations", status_code=201, responses=MAKING_ANSWERS)
async def create_variations(
    image_id: ImageIdPath,
    body: VariationsBody,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    key: KeyDep,
    prefer: Prefer = "",
) -> Response:
    """Generate variations (img2img): the less strength, the more alike."""
    wanted = await services.generation.find_request(caller.owner, key)
    if wanted is None:
        record = await services.images.find(str(image_id), owner=caller.owner, session="")
        wanted = await services.edits.variation(record, body.options, body.prompt, body.strength, caller.request_id)
    specs = job_specs(with_consecutive_seeds(wanted, body.n), caller, key)
    return await _generate(services, specs, request, caller, prefer)


@edits_router.post("/edits", status_code=201, responses=MAKING_ANSWERS)
async def create_edits(
    image_id: ImageIdPath,
    body: EditsBody,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    key: KeyDep,
    prefer: Prefer = "",
) -> Response:
    """Edit an image (inpainting) within a mask, a region, or the regions of a concept; all else stays."""
    wanted = await services.generation.find_request(caller.owner, key)
    if wanted is None:
        record = await services.images.find(str(image_id), owner=caller.owner, session="")
        area = EditArea(picture=body.mask, region=body.region, concept=body.concept, prompt=body.prompt_of(record))
        wanted = await services.edits.edit(record, body.options, body.prompt, body.strength, area, caller.request_id)
    specs = job_specs(with_consecutive_seeds(wanted, body.n), caller, key)
    return await _generate(services, specs, request, caller, prefer)


async def _generate(
    services: Services, specs: Sequence[GenerationJobSpec], request: Request, caller: Caller, prefer: str
) -> Response:
    """Make images and return them, their jobs at once, or the events on the way, as the caller prefers."""
    if RESPOND_ASYNC in prefer:
        submitted = await services.generation.submit(specs)
        jobs = [JobStatus.of(job, services.generation.job_warnings(job)) for job in submitted]
        response = json_response(AcceptedJobs(request_id=caller.request_id, jobs=jobs), status_code=202)
        response.headers["Preference-Applied"] = RESPOND_ASYNC
        if len(jobs) == 1:
            response.headers["Location"] = jobs[0].url
    elif EVENT_STREAM in request.headers.get("accept", ""):
        response = await sse_response(request.scope, _stream(services, specs, caller), as_event)
    else:
        response = _created(services, await services.generation.run(specs), caller)
    return response


async def _stream(
    services: Services, specs: Sequence[GenerationJobSpec], caller: Caller
) -> AsyncGenerator[EventRecord | Response, None]:
    async with aclosing(services.generation.stream(specs)) as items:
        async for item in items:
            yield item if isinstance(item, EventRecord) else _created(services, item, caller)


def _created(services: Services, generated: Sequence[GeneratedImage], caller: Caller) -> Response:
    images = [StoredImage.of(each.record, services.generation.warnings(each)) for each in generated]
    response = json_response(CreatedImages(request_id=caller.request_id, images=images), status_code=201)
    if len(images) == 1:
        response.headers["Location"] = f"/v1/images/{generated[0].record.image_id}"
    return response


def _encoding(record: ImageRecord, format_: ImageFormat, size: int | None, quality: int) -> Encoding:
    longer = max(record.width, record.height)
    scaled = None
    if size is not None and size < longer:
        scaled = max(1, round(record.width * size / longer)), max(1, round(record.height * size / longer))
    return Encoding(format=format_, size=scaled, quality=Encoding().quality if format_ is ImageFormat.PNG else quality)


def _in_utc(moment: datetime | None) -> datetime | None:
    """A moment that names no zone is in UTC."""
    if moment is None:
        return None
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(
            problem=f"{moment} is beyond all calendars. Send a moment such as 2026-11-26T12:00Z."
        ) from None


async def _picture(request: Request) -> bytes:
    kind = media_type_of(request)
    if kind == "multipart/form-data":
        try:
            async with request.form(max_files=1, max_fields=10) as form:
                for part in form.values():
                    if not isinstance(part, str):
                        return await part.read()
        except (HTTPException, UnicodeError) as error:  # broken, or of a charset that decodes nothing
            reason = error.detail if isinstance(error, HTTPException) else error
            raise InvalidUpload(problem=f"The form can't be read ({reason}). Send the picture as its body.") from None
        raise InvalidUpload(problem="The form holds no file. Send the picture as a field of type file.")
    if kind in (*PICTURE_TYPES, BYTES):
        return await request.body()
    raise UnsupportedMediaType(given=kind or "missing", accepted=f"{', '.join(PICTURE_TYPES)} or multipart/form-data")
