"""Images the way OpenAI's clients ask for them: checked, turned into requests of ours, and made."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request
from starlette.responses import Response

from graphs.flow import Flow
from graphs.generation.edits import EditRequests
from graphs.generation.requests import to_request, with_consecutive_seeds
from graphs.http.context import Caller, orders_of
from graphs.http.responses import json_response
from graphs.http.routes.openai_answers import Kind, OpenAIAnswer
from graphs.http.schemas.openai import EditsForm, GenerationsBody, ImagesBody, check_size
from graphs.http.sse import sse_response
from pipeline.errors import InvalidRequest, UnknownModel
from pipeline.jobs import IdempotencyKey
from pipeline.records import GenerationRequest
from pipeline.regions import Mask

NOT_KEPT_YET = ""  # the id of a picture until its request is known to be good
EDIT_STRENGTH = 0.8  # without a mask: enough to change what is there, and to keep where it is


class OpenAIImages:
    """Answers both of OpenAI's ways to ask for images.

    Args:
        models: names that the diffusion model answers to, its own first.
        public_url: where clients reach the service; what a request was sent to if None.
    """

    def __init__(self, flow: Flow, edits: EditRequests, models: Sequence[str], public_url: str | None) -> None:
        self._flow = flow
        self._edits = edits
        self._models = models
        self._public_url = public_url

    async def generate(
        self, body: GenerationsBody, request: Request, caller: Caller, key: IdempotencyKey | None
    ) -> Response:
        """Make images of a text.

        Raises:
            UnknownModel: the model isn't here.
            InvalidRequest: a value is outside of what the profile allows.
        """
        text_tokens = await self._check(body, caller)
        diffusion = self._flow.profile.diffusion
        width, height = body.wanted_size or (diffusion.defaults.width, diffusion.defaults.height)
        wanted = await self._flow.generations.ordered(caller.owner, key)
        if wanted is None:
            wanted = to_request(body.parameters(diffusion).options, diffusion, body.prompt, width, height)
        return await self._answer("image_generation", wanted, body, text_tokens, request, caller, key)

    async def edit(
        self,
        form: EditsForm,
        picture: bytes,
        mask: bytes | None,
        request: Request,
        caller: Caller,
        key: IdempotencyKey | None,
    ) -> Response:
        """Make images of a picture: with something else where the mask is transparent, or the picture itself is.

        The picture is kept as an image of the caller's: an edit can be done again only with it.

        Raises:
            UnknownModel: the model isn't here.
            InvalidRequest: a value is outside of what the profile allows, or the mask can't be used.
        """
        text_tokens = await self._check(form, caller)
        with self._flow.generations.gate.admit(caller.request_id):  # nothing is kept of what is refused
            wanted = await self._flow.generations.ordered(caller.owner, key)
            if wanted is None:
                wanted = await self._wanted(form, picture, mask, caller)
            return await self._answer("image_edit", wanted, form, text_tokens, request, caller, key)

    async def _wanted(self, form: EditsForm, picture: bytes, mask: bytes | None, caller: Caller) -> GenerationRequest:
        upload = await self._flow.decode(picture, caller.request_id)
        height, width = upload.pixels.shape[:2]
        area = upload.transparent if mask is None else await self._transparent(mask, caller)
        wanted = await self._edits.from_image(
            (width, height),
            NOT_KEPT_YET,
            form.parameters(self._flow.profile.diffusion).options,
            form.prompt,
            form.strength or (EDIT_STRENGTH if area is None else 1.0),
            area,
            form.wanted_size,
        )
        record = await self._flow.keep(upload, owner=caller.owner, sessions=(), request_id=caller.request_id)
        return wanted.made_from(record.image_id)

    async def _transparent(self, mask: bytes, caller: Caller) -> Mask:
        transparent = (await self._flow.decode(mask, caller.request_id)).transparent
        if transparent is None:
            raise InvalidRequest(
                problem="The mask has no transparency. Send a PNG that is transparent where the image is to change.",
                param="mask",
            )
        return transparent

    async def _check(self, body: ImagesBody, caller: Caller) -> int:
        """See that a request can be done; counts its texts' tokens before anything is kept or made."""
        if body.model is not None and body.model not in self._models:
            raise UnknownModel(model=body.model, known=" or ".join(self._models), param="model")
        check_size(body.wanted_size, self._flow.profile.diffusion)
        texts = [text for text in (body.prompt, body.negative_prompt) if text]
        return await self._flow.count_tokens("Diffusion", texts, caller.request_id)

    async def _answer(
        self,
        kind: Kind,
        wanted: GenerationRequest,
        body: ImagesBody,
        text_tokens: int,
        request: Request,
        caller: Caller,
        key: IdempotencyKey | None,
    ) -> Response:
        orders = orders_of(with_consecutive_seeds(wanted, body.images), caller, key)
        answered = OpenAIAnswer(
            self._flow,
            wanted,
            body,
            text_tokens=text_tokens,
            request_id=caller.request_id,
            base_url=self._public_url or str(request.base_url),
        )
        if body.stream:
            making = self._flow.generations.making(orders, previews=bool(body.partial_images))
            events = answered.events(kind, making)
            response = await sse_response(request.scope, events, bytes)
        else:
            response = json_response(await answered.response(await self._flow.generations.make(orders)))
        caller.set_session_cookie(response)
        return response
