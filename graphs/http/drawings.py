"""What routes about an image share: the image their path names, and pictures drawn of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import Response

from graphs.http.context import CallerDep, ServicesDep
from graphs.http.errors import error_responses
from graphs.http.responses import BYTES, ImageIdPath, binary_content, content
from pipeline.imaging.codecs import digest_of_bytes
from pipeline.records import ImageRecord

PNG = "image/png"

_PNG_CONTENT = binary_content(PNG, BYTES)
ANALYSIS_PROBLEMS = error_responses(401, 404, 422, 429, 500, 503, 504)
DRAWING_RESPONSES = ANALYSIS_PROBLEMS | {
    200: {"content": _PNG_CONTENT},
    206: {"description": "Partial Content", "content": _PNG_CONTENT},
    304: {"description": "Not Modified"},
    416: {"description": "Range Not Satisfiable"},
}


async def get_image(image_id: ImageIdPath, services: ServicesDep, caller: CallerDep) -> ImageRecord:
    """Return the image that the path names."""
    return await services.images.find(str(image_id), owner=caller.owner, session="")


ImageDep = Annotated[ImageRecord, Depends(get_image)]


def picture_response(request: Request, png: bytes) -> Response:
    """Return a PNG that was drawn: to be revalidated, since another model draws another."""
    return content(request, png, PNG, digest_of_bytes(png), for_ever=False)
