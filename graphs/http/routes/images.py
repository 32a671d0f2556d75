"""Images as resources: upload, list, read, annotate, delete."""

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from graphs.http.context import Caller, CallerDep, KeyHeader, ServicesDep, idempotency_key
from graphs.http.errors import error_responses
from graphs.http.image_filter import FilterDep, ImagePageDep, MetadataDep, TagParameters
from graphs.http.image_responses import Included, image_response, naming
from graphs.http.pagination import SplitCommas, split_page
from graphs.http.responses import (
    BYTES,
    ImageIdPath,
    V1Route,
    binary_content,
    content,
    is_known,
    json_response,
    not_modified,
)
from graphs.http.schemas.images import (
    Deletion,
    Deletions,
    Image,
    ImageChanges,
    ImageIds,
    ImageList,
    Uploaded,
)
from graphs.http.schemas.segments import labels_of
from graphs.http.validation import REFUSALS, media_type_of
from graphs.services import Services
from pipeline.answer_warnings import image_warnings
from pipeline.errors import ImageNotFound, InvalidUpload, UnsupportedMediaType
from pipeline.records import NO_ANNOTATIONS, Encoding, ImageFormat, ImageRecord

PICTURE_TYPES = ("image/png", "image/jpeg", "image/webp")
PICTURE_CONTENT = binary_content(*PICTURE_TYPES, BYTES)
BYTES_CONTENT = binary_content(BYTES)

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


class ListInclude(StrEnum):
    """What a list has of each image beside how it was made."""

    LABELS = "labels"


router = APIRouter(prefix="/v1/images", route_class=V1Route, tags=["images"], dependencies=REFUSALS)


@router.post(
    "/upload",
    response_model=Uploaded,
    status_code=201,
    responses=error_responses(400, 401, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra=_PICTURE_BODY,
)
async def upload_image(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    metadata: MetadataDep,
    key: KeyHeader = None,
    tag: TagParameters = (),
    include: Included = (),
) -> Response:
    """Upload an image: PNG, JPEG or WebP, as the body or as a form's file."""
    picture = await _picture(request)
    annotations = NO_ANNOTATIONS.changed(metadata, tag)
    sent = picture + repr(annotations).encode() if annotations != NO_ANNOTATIONS else picture
    uploaded = await services.images.upload(
        picture,
        owner=caller.owner,
        sessions=caller.sessions,
        request_id=caller.request_id,
        key=idempotency_key(request, key, sent),
        annotations=annotations,
    )
    with naming([uploaded]):
        image = await image_response(services, uploaded, caller, include)
    kept = json_response(Uploaded(request_id=caller.request_id, **dict(image)), status_code=201)
    kept.headers["Location"] = image.url
    return kept


@router.get("", response_model=ImageList, responses=error_responses(401, 422, 429, 503))
async def list_images(
    services: ServicesDep,
    caller: CallerDep,
    page: ImagePageDep,
    wanted: FilterDep,
    include: Annotated[
        Sequence[ListInclude], SplitCommas, Query(description="Whether to include the labels that are known.")
    ] = (),
) -> Response:
    """List your images, newest first."""
    records = await services.images.history(caller.owner, page, wanted)
    shown, fields = split_page(records, page, lambda record: record.image_id)
    images = [await _listed(services, record, include) for record in shown]
    return json_response(ImageList(data=images, images=[image.without_included() for image in images], **fields))


@router.get("/{image_id}", response_model=Image, responses=error_responses(401, 404, 422, 429, 500, 503, 504))
async def get_image(
    image_id: ImageIdPath, services: ServicesDep, caller: CallerDep, include: Included = ()
) -> Response:
    """Return an image's metadata: how it was made, and its warnings."""
    record = await services.images.find(str(image_id), owner=caller.owner, session="")
    description = await services.stages.describe_known(record)
    return json_response(await image_response(services, record, caller, include, description=description))


@router.patch("/{image_id}", response_model=Image, responses=error_responses(400, 401, 404, 413, 415, 422, 429, 503))
async def update_image(image_id: ImageIdPath, body: ImageChanges, services: ServicesDep, caller: CallerDep) -> Response:
    """Change an image's metadata and tags."""
    record = await services.images.annotate(
        str(image_id), owner=caller.owner, metadata=body.metadata, tags=body.tags, request_id=caller.request_id
    )
    description = await services.stages.describe_known(record)
    return json_response(await image_response(services, record, caller, description=description))


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
    max_side: Annotated[int | None, Query(ge=1, le=4096, description="Longest side in pixels; never enlarges.")] = None,
    size: Annotated[int | None, Query(ge=1, le=4096, description="The same as `max_side`.", deprecated=True)] = None,
    quality: Annotated[int, Query(ge=1, le=100, description="Of JPEG and WebP.")] = 90,
) -> Response:
    """Return an image's bytes, as PNG or otherwise. They never change, so clients may cache them for ever."""
    record = await services.images.find(str(image_id), owner=caller.owner, session="")
    size = max_side or size
    encoding = _encoding(record, format_, size, quality)
    etag = record.digest if encoding == Encoding() else f"{record.digest}-{format_}-{size or 0}-{quality}"
    if is_known(request, etag):
        return not_modified(etag)
    body = await services.images.encoded(record, encoding, caller.request_id)
    return content(request, body, format_.media_type, etag)


@router.post("/delete", response_model=Deletions, responses=error_responses(400, 401, 413, 415, 422, 429, 503))
async def delete_images(body: ImageIds, services: ServicesDep, caller: CallerDep) -> Response:
    """Delete several images and everything computed from them."""
    deletions = [
        Deletion(image_id=str(image_id), deleted=await _delete(services, str(image_id), caller))
        for image_id in body.image_ids
    ]
    return json_response(Deletions(data=deletions))


@router.delete("/{image_id}", status_code=204, responses=error_responses(401, 404, 422, 429, 503))
async def delete_image(image_id: ImageIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Delete an image and everything computed from it. The response is 204 also if there is no such image any more."""
    await _delete(services, str(image_id), caller)
    return Response(status_code=204)


async def _delete(services: Services, image_id: str, caller: Caller) -> bool:
    """Delete an image; return whether it was there."""
    try:
        await services.images.delete(image_id, owner=caller.owner, request_id=caller.request_id)
    except ImageNotFound:
        return False
    return True


async def _listed(services: Services, record: ImageRecord, include: Collection[ListInclude]) -> Image:
    description = await services.stages.describe_known(record) if include else None
    warnings = image_warnings(services.profile, record, description)
    return Image.of(record, warnings, labels=labels_of(description) if description else None)


def _encoding(record: ImageRecord, format_: ImageFormat, size: int | None, quality: int) -> Encoding:
    longer = max(record.width, record.height)
    scaled = None
    if size is not None and size < longer:
        scaled = max(1, round(record.width * size / longer)), max(1, round(record.height * size / longer))
    return Encoding(format=format_, size=scaled, quality=Encoding().quality if format_ is ImageFormat.PNG else quality)


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
