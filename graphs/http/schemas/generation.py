"""Request fields of images to generate."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from graphs.generation.requests import SEEDS, GenerationOptions, to_request
from pipeline.records import GenerationRequest, Scheduler
from pipeline.settings import DiffusionSettings

MAX_PROMPT_CHARS = 2000
MAX_IMAGES = 10  # of one call

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _clean(text: str) -> str:
    text = text.strip()
    if _CONTROL.search(text):
        raise ValueError("holds control characters; send plain text")
    return text


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("is empty; send a few words")
    return text


PlainText = Annotated[str, AfterValidator(_clean)]
Text = Annotated[PlainText, Field(max_length=MAX_PROMPT_CHARS)]
Prompt = Annotated[Text, AfterValidator(_not_empty)]

RED_APPLE = "red apple in white plate"


class RequestBody(BaseModel):
    """A JSON body: a field that is null counts as left out."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, body: Any) -> Any:
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body


class RunLengths(BaseModel):
    """A mask as COCO's compressed run lengths: `pycocotools.mask.decode` takes it as it is."""

    size: tuple[int, int] = Field(description="Height and width in pixels.")
    counts: str = Field(description="Compressed run lengths, column by column.")

    @classmethod
    def of(cls, rle: bytes, size: tuple[int, int]) -> Self:
        return cls(size=size, counts=rle.decode("ascii"))


class SourceImage(BaseModel):
    """The image that another one was made from, and how much of it could change."""

    image_id: str = Field(description="Its id; it may have been deleted.")
    strength: float = Field(description="Share of the steps that were run, above 0 to 1; 1 ignores the source.")
    mask: RunLengths | None = Field(
        description="Where it could change, at the new image's size; null: everywhere, or in a job whose `area` is "
        "found when it runs."
    )


class GenerationParameters(BaseModel):
    """Everything that decides an image: the same parameters make the same image again."""

    prompt: str = Field(description="Text of what the image shows.")
    negative_prompt: str = Field(description="Text of what to avoid; empty if there is none.")
    width: int = Field(description="In pixels.")
    height: int = Field(description="In pixels.")
    steps: int = Field(description="Denoising steps.")
    guidance: float = Field(description="Classifier-free guidance scale; 1 switches guidance off.")
    seed: int = Field(description="Seed of the initial noise.")
    scheduler: Scheduler = Field(description="Noise schedule and solver.")
    deterministic: bool = Field(description="Whether it was denoised in a batch of its own.")
    source: SourceImage | None = Field(description="The image it was made from; null if from noise alone.")

    @classmethod
    def of(cls, request: GenerationRequest) -> Self:
        """Write a request down."""
        own = {field.name: getattr(request, field.name) for field in fields(request) if field.name != "source"}
        if (source := request.source) is None:
            return cls(**own, source=None)
        mask = None if source.mask is None else RunLengths(size=(request.height, request.width), counts=source.mask)
        written = SourceImage(image_id=source.image_id, strength=source.strength, mask=mask)
        return cls(**own, source=written)


class Parameters(RequestBody):
    """What decides an image beside its prompt and its size; the profile has defaults for all of it."""

    negative_prompt: Text = Field("", description="Text of what to avoid.")
    seed: int | None = Field(
        None, ge=0, lt=SEEDS, description="Same request, same seed, same image. Random if left out."
    )
    steps: int | None = Field(None, ge=1, description="Denoising steps; the profile's default if left out.")
    guidance: float | None = Field(None, ge=0, allow_inf_nan=False, description="Classifier-free guidance scale.")
    scheduler: Scheduler | None = Field(
        None, description="Noise schedule and solver; the profile's default if left out."
    )
    deterministic: Annotated[bool, Field(description="Same bits under any load, at the price of sharing no step.")] = (
        False
    )

    @property
    def options(self) -> GenerationOptions:
        """The same as the generation package takes it."""
        return GenerationOptions(
            negative_prompt=self.negative_prompt,
            seed=self.seed,
            steps=self.steps,
            guidance=self.guidance,
            scheduler=self.scheduler,
            deterministic=self.deterministic,
        )


class GenerateBody(Parameters):
    """A text to make an image of. Only `prompt` is needed; the profile has defaults for the rest."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": RED_APPLE}, {"prompt": RED_APPLE, "seed": 7}]})

    prompt: Prompt = Field(description="Text of what the image shows.")
    width: int | None = Field(None, ge=1, description="In pixels.")
    height: int | None = Field(None, ge=1, description="In pixels.")

    def resolve(self, settings: DiffusionSettings) -> GenerationRequest:
        """Fill in the profile's defaults and check its limits.

        Raises:
            InvalidRequest: a value is outside of what the profile allows; says what is inside.
        """
        defaults = settings.defaults
        size = self.width or defaults.width, self.height or defaults.height
        return to_request(self.options, settings, self.prompt, *size)


NumImages = Annotated[int, Field(ge=1, le=MAX_IMAGES, description="How many images; each has the next seed.")]
Strength = Annotated[
    float, Field(gt=0, le=1, allow_inf_nan=False, description="How much may change; 1 begins from noise.")
]
