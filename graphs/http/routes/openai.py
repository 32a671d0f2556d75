"""OpenAI's Images, Embeddings and Models API. No logic: each route asks the flow and writes down the answer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import Response

from graphs.flow import Flow
from graphs.http.context import AnyCaller, Key, KeyHeader, key_of
from graphs.http.openai_errors import EDITS, EMBEDDINGS, GENERATIONS, MODELS
from graphs.http.responses import JsonRoute, json_response, openai_error_responses
from graphs.http.routes.events import EVENT_STREAM
from graphs.http.routes.openai_images import OpenAIImages
from graphs.http.schemas.analysis import Embeddings, EmbeddingsBody, ImageReference, embeddings
from graphs.http.schemas.openai import EditsForm, GenerationsBody, ImagesResponse, Model, Models
from pipeline.errors import InvalidRequest, InvalidUpload, UnknownModel

OWNED_BY = "ai-pipeline"
MAX_FIELDS = 64

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


def openai_routes(flow: Flow, images: OpenAIImages, models: Sequence[str], embedding_model: str) -> APIRouter:
    """Routes that OpenAI's clients know.

    Args:
        models: names that the diffusion model answers to, its own first.
        embedding_model: what CLIP is called.
    """
    router = APIRouter(route_class=JsonRoute, tags=["OpenAI"])
    started_at = int(time.time())
    known = {name: Model(id=name, created=started_at, owned_by=OWNED_BY) for name in (*models, embedding_model)}

    @router.post(GENERATIONS, responses=_ANSWERS)
    async def generations(body: GenerationsBody, request: Request, caller: AnyCaller, key: Key) -> Response:
        """Make images of a text; with `stream`, `partial_images` previews come while they are denoised."""
        return await images.generate(body, request, caller, key)

    @router.post(EDITS, responses=_ANSWERS, openapi_extra=_form_body())
    async def edits(request: Request, caller: AnyCaller, key: KeyHeader = None) -> Response:
        """Change an image: where `mask` is transparent, or the image itself is, else everywhere."""
        sent = await _read_form(request)
        return await images.edit(
            sent.form, sent.image, sent.mask, request, caller, key_of(request, key, sent.fingerprint)
        )

    @router.post(EMBEDDINGS, response_model=Embeddings, responses=_PROBLEMS)
    async def embed(body: EmbeddingsBody, caller: AnyCaller) -> Response:
        """CLIP's vectors of texts, and of one's images: the input may hold `{"image_id": …}` as well."""
        if body.model not in (None, embedding_model):
            raise UnknownModel(model=body.model, known=embedding_model, param="model")
        ids = {str(item.image_id) for item in body.inputs if isinstance(item, ImageReference)}
        records = {id_: await flow.images.find(id_, owner=caller.owner, session="") for id_ in ids}
        inputs = [records[str(item.image_id)] if isinstance(item, ImageReference) else item for item in body.inputs]
        texts = [item for item in body.inputs if isinstance(item, str)]
        tokens = await flow.count_tokens("Clip", texts, caller.request_id)
        vectors = await flow.questions.embed(inputs, caller.request_id)
        return json_response(embeddings(vectors, body.encoding_format, model=embedding_model, tokens=tokens))

    @router.get(MODELS, response_model=Models, responses=openai_error_responses(401, 429, 503))
    async def list_models(_: AnyCaller) -> Response:
        """List the models: those that make images, and the one that makes vectors."""
        return json_response(Models(data=[*known.values()]))

    @router.get(f"{MODELS}/{{model}}", response_model=Model, responses=openai_error_responses(401, 404, 429, 503))
    async def model(model: str, _: AnyCaller) -> Response:
        """Tell of one model."""
        if model not in known:
            raise UnknownModel(model=model, known=" or ".join(known), param="model")
        return json_response(known[model])

    return router


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sent:
    """What a form holds."""

    form: EditsForm
    image: bytes
    mask: bytes | None

    @property
    def fingerprint(self) -> bytes:
        """The same for the same form, whatever its boundary."""
        files = [hashlib.sha256(file or b"").hexdigest() for file in (self.image, self.mask)]
        return orjson.dumps([self.form.model_dump(mode="json"), files])


async def _read_form(request: Request) -> _Sent:
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
    return _Sent(form=sent, image=files["image"][0], mask=next(iter(files["mask"]), None))
