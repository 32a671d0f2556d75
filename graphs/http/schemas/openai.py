"""OpenAI's Images API as this service speaks it: what it takes, and what it answers.

What isn't supported is refused, never ignored. Our own parameters (`seed`, `steps`, …) may be sent beside OpenAI's:
its clients have `extra_body` for them.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from graphs.generation.requests import is_allowed
from graphs.http.schemas.common import Warnings
from graphs.http.schemas.generation import NumImages, Parameters, Prompt, Strength
from pipeline.errors import InvalidRequest
from pipeline.records import ImageFormat
from pipeline.settings import DiffusionSettings

MAX_PARTIAL_IMAGES = 3
PIXELS_PER_TOKEN = 16  # each way
DEFAULT_COMPRESSION = 100
QUALITY_STEPS = {"low": 0.5, "medium": 1.0, "high": 2.0}  # times the profile's

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


def _is_size(size: str) -> str:
    if size != "auto" and not _SIZE.fullmatch(size):
        raise ValueError("is no size; send one such as 512x512, or auto")
    return size


class ImagesBody(Parameters):
    """What both ways of making images take."""

    model_config = ConfigDict(extra="forbid")

    prompt: Prompt = Field(description="Text of what the image shows.")
    model: str | None = Field(None, description="One of `/v1/models`; the service's own if left out.")
    n: Annotated[NumImages | None, Field(description="1 with `stream`.")] = None
    size: Annotated[str, AfterValidator(_is_size)] | None = Field(
        None, examples=["auto", "512x512"], description="Width and height in pixels, or `auto`."
    )
    quality: Literal["auto", "low", "medium", "high"] | None = Field(
        None, description="Half, once or twice the profile's steps; not together with `steps`."
    )
    response_format: Literal["b64_json", "url"] | None = Field(None, description="Base64 in the response, or a URL.")
    output_format: ImageFormat | None = Field(None, description="Format of the images; PNG if left out.")
    output_compression: int | None = Field(None, ge=0, le=100, description="Of JPEG and WebP; 100 is the best quality.")
    background: Literal["auto", "opaque"] | None = Field(None, description="Images are opaque.")
    moderation: Literal["auto"] | None = Field(
        None, description="Accepted for compatibility; the safety checker is a setting of the service."
    )
    stream: bool | None = Field(None, description="Whether to stream events with previews.")
    partial_images: int | None = Field(None, ge=0, le=MAX_PARTIAL_IMAGES, description="Previews of a `stream`.")
    user: str | None = Field(None, max_length=1000, description="Accepted for compatibility; ignored.")
    safety_identifier: str | None = Field(None, max_length=1000, description="Accepted for compatibility; ignored.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.stream and self.images > 1:
            raise ValueError("n must be 1 with stream; send several requests")
        if self.stream and self.response_format == "url":
            raise ValueError("response_format must be b64_json with stream")
        if self.partial_images and not self.stream:
            raise ValueError("partial_images needs stream")
        if self.format is ImageFormat.PNG and self.output_compression not in (None, DEFAULT_COMPRESSION):
            raise ValueError("output_compression is of JPEG and WebP; PNG loses nothing")
        if self.steps is not None and self.quality in QUALITY_STEPS:
            raise ValueError("send steps or quality, not both")
        return self

    @property
    def images(self) -> int:
        """How many are wanted."""
        return self.n or 1

    @property
    def format(self) -> ImageFormat:
        """What they are encoded as."""
        return self.output_format or ImageFormat.PNG

    @property
    def compression(self) -> int:
        """The quality of JPEG and WebP, 1 to 100."""
        return max(1, DEFAULT_COMPRESSION if self.output_compression is None else self.output_compression)

    @property
    def wanted_size(self) -> tuple[int, int] | None:
        """Width and height in pixels; None for whatever is usual."""
        found = _SIZE.fullmatch(self.size or "auto")
        return (int(found[1]), int(found[2])) if found else None

    @property
    def said_quality(self) -> Literal["low", "medium", "high"]:
        """As answers say it."""
        return "medium" if self.quality in (None, "auto") else self.quality  # type: ignore[return-value]

    def parameters(self, settings: DiffusionSettings) -> Parameters:
        """The parameters, with the steps that the quality stands for."""
        share = QUALITY_STEPS.get(self.quality or "auto")
        if share is None:
            return self
        steps = min(settings.limits.max_steps, max(1, round(share * settings.defaults.steps)))
        return self.model_copy(update={"steps": steps})


class GenerationsBody(ImagesBody):
    """A text to make images of, as OpenAI's clients send it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"prompt": "a red apple"}]})


class EditsForm(ImagesBody):
    """What an image is to show instead; the image and its mask are files of the form."""

    strength: Strength | None = Field(None, description="How much may change: 1 with a mask, 0.8 without one.")


class ImageData(BaseModel):
    """One image, and what it is called here."""

    b64_json: str | None = Field(default=None, description="The image in Base64.")
    url: str | None = Field(default=None, description="URL of the image, with `response_format=url`.")
    image_id: str = Field(description="Id of the image in `/v1/images`.")
    seed: int = Field(description="Seed of the initial noise.")


class TokensDetails(BaseModel):
    text_tokens: int = Field(description="Tokens of texts.")
    image_tokens: int = Field(description="Tokens of images.")


class Usage(BaseModel):
    """What it took: a text counts CLIP's tokens, a picture one for each 16 x 16 pixels."""

    input_tokens: int = Field(description="Tokens of prompt and source image.")
    input_tokens_details: TokensDetails = Field(description="The same by kind.")
    output_tokens: int = Field(description="Tokens of the new images.")
    output_tokens_details: TokensDetails = Field(description="The same by kind.")
    total_tokens: int = Field(description="Sum of all tokens.")

    @classmethod
    def of(cls, *, text: int, image: int, output: int) -> Self:
        """Sum tokens up: those of the prompt, of the picture that is changed, and of all that is made."""
        return cls(
            input_tokens=text + image,
            input_tokens_details=TokensDetails(text_tokens=text, image_tokens=image),
            output_tokens=output,
            output_tokens_details=TokensDetails(text_tokens=0, image_tokens=output),
            total_tokens=text + image + output,
        )


class ImagesResponse(BaseModel):
    """New images, in the order of their seeds."""

    created: int = Field(description="Unix time in seconds.")
    background: Literal["opaque"] = Field(default="opaque", description="Always `opaque`.")
    data: list[ImageData] = Field(description="The images.")
    output_format: ImageFormat = Field(description="Format of the images.")
    quality: Literal["low", "medium", "high"] = Field(description="Quality of the images.")
    size: str = Field(description="Width and height in pixels.")
    usage: Usage = Field(description="What it took.")
    warnings: Warnings


class Model(BaseModel):
    id: str = Field(description="Name of the model.")
    object: Literal["model"] = Field(default="model", description="Always `model`.")
    created: int = Field(description="When this replica started, in Unix seconds.")
    owned_by: str = Field(description="Who trained the model.")


class Models(BaseModel):
    object: Literal["list"] = Field(default="list", description="Always `list`.")
    data: list[Model] = Field(description="The models.")


def picture_tokens(width: int, height: int) -> int:
    """What a picture of a size counts."""
    return -(-width // PIXELS_PER_TOKEN) * -(-height // PIXELS_PER_TOKEN)


def check_size(size: tuple[int, int] | None, settings: DiffusionSettings) -> None:
    """See that a size is one of those that the profile allows.

    Raises:
        InvalidRequest: it isn't; says what is allowed.
    """
    limits = settings.limits
    for side in size or ():
        if not is_allowed(side, limits):
            raise InvalidRequest(
                problem=f"size is {'x'.join(map(str, size or ()))}: send sides that are multiples of "
                f"{limits.side_multiple} from {limits.min_side} to {limits.max_side}, or auto.",
                param="size",
            )
