"""The images one has: list, look, upload, delete. No logic: each asks the flow and writes down the answer."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from graphs import schemas
from graphs.answers import answer, problems
from graphs.caller import AnyCaller
from graphs.flow import Flow
from graphs.idempotency import KeyHeader, key_of
from graphs.job_routes import MAX_PAGE, PAGE
from pipeline.errors import InvalidUpload

PICTURE_TYPES = ("image/png", "image/jpeg", "image/webp")
ONE_YEAR_S = 365 * 24 * 3600

_PICTURE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in PICTURE_TYPES}
        | {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
            }
        },
    }
}


def history_routes(flow: Flow) -> APIRouter:
    """Routes of the images a caller owns."""
    router = APIRouter(tags=["history"])

    @router.get("/v1/images", response_model=schemas.History, responses=problems(401, 422, 429))
    async def history(
        caller: AnyCaller,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = PAGE,
        before: Annotated[UUID | None, Query(description="The `next` of the page before.")] = None,
    ) -> Response:
        """List the images one owns, newest first."""
        records = await flow.gallery.history(caller.owner, limit=limit, before=str(before) if before else None)
        last = records[-1].image_id if len(records) == limit else None
        return answer(schemas.History(images=[schemas.StoredImage.of(r) for r in records], next=last))

    @router.post(
        "/v1/images/upload",
        response_model=schemas.Uploaded,
        status_code=201,
        responses=problems(400, 401, 413, 422, 429, 500, 503, 504),
        openapi_extra=_PICTURE_BODY,
    )
    async def upload(request: Request, caller: AnyCaller, key: KeyHeader = None) -> Response:
        """Keep an image of one's own: PNG, JPEG or WebP, as the body or as a form's file."""
        picture = await _picture(request)
        uploaded = await flow.upload(
            picture,
            owner=caller.owner,
            sessions=caller.sessions,
            request_id=caller.request_id,
            key=key_of(request, key, picture),
        )
        kept = answer(
            schemas.Uploaded(
                request_id=caller.request_id,
                image_id=uploaded.image_id,
                width=uploaded.width,
                height=uploaded.height,
            ),
            status_code=201,
        )
        kept.headers["Location"] = f"/v1/images/{uploaded.image_id}"
        caller.greet(kept)
        return kept

    @router.get("/v1/images/{image_id}", response_model=schemas.StoredImage, responses=problems(401, 404, 422, 429))
    async def image(image_id: UUID, caller: AnyCaller) -> Response:
        """Tell how an image was made."""
        return answer(schemas.StoredImage.of(await flow.gallery.find(str(image_id), owner=caller.owner, session="")))

    @router.get(
        "/v1/images/{image_id}/content",
        response_class=Response,
        responses=problems(401, 404, 422, 429)
        | {200: {"content": {"image/png": {}}}, 304: {"description": "Not Modified"}},
    )
    async def content(image_id: UUID, request: Request, caller: AnyCaller) -> Response:
        """Send an image as PNG. It never changes, so clients may keep it for ever."""
        record = await flow.gallery.find(str(image_id), owner=caller.owner, session="")
        headers = {"ETag": f'"{record.digest}"', "Cache-Control": f"private, max-age={ONE_YEAR_S}, immutable"}
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(await flow.gallery.png(record), media_type="image/png", headers=headers)

    @router.delete("/v1/images/{image_id}", status_code=204, responses=problems(401, 404, 422, 429))
    async def delete(image_id: UUID, caller: AnyCaller) -> Response:
        """Remove an image and all that was computed of it."""
        await flow.gallery.delete(str(image_id), owner=caller.owner, request_id=caller.request_id)
        return Response(status_code=204)

    return router


async def _picture(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
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
    if kind in PICTURE_TYPES:
        return await request.body()
    raise InvalidUpload(
        problem=f"Content-Type is {kind or 'missing'}. Send {', '.join(PICTURE_TYPES)} or multipart/form-data."
    )
