"""What a client may say of an image that is to be made, and how a profile's defaults and limits complete it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline.errors import InvalidRequest
from pipeline.records import GenerationRequest, Scheduler, Source
from pipeline.settings import DiffusionSettings, GenerationLimits

MAX_PROMPT_CHARS = 2000
MAX_IMAGES = 10  # of one call
SEEDS = 2**32

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


class Parameters(BaseModel):
    """What decides an image beside its prompt and its size; the profile has defaults for all of it."""

    negative_prompt: Text = ""
    seed: int | None = Field(
        None, ge=0, lt=SEEDS, description="Same request, same seed, same image. Random if left out."
    )
    steps: int | None = Field(None, ge=1)
    guidance: float | None = Field(None, ge=0, allow_inf_nan=False, description="Classifier-free guidance scale.")
    scheduler: Scheduler | None = None
    deterministic: Annotated[bool, Field(description="Same bits under any load, at the price of sharing no step.")] = (
        False
    )

    def complete(
        self, settings: DiffusionSettings, prompt: str, width: int, height: int, source: Source | None = None
    ) -> GenerationRequest:
        """Fill in the profile's defaults and check its limits.

        Raises:
            InvalidRequest: a value is outside of what the profile allows; says what is inside.
        """
        defaults, limits = settings.defaults, settings.limits
        request = GenerationRequest(
            prompt=prompt,
            negative_prompt=self.negative_prompt,
            width=width,
            height=height,
            steps=self.steps or defaults.steps,
            guidance=defaults.guidance if self.guidance is None else self.guidance,
            seed=secrets.randbelow(SEEDS) if self.seed is None else self.seed,
            scheduler=self.scheduler or defaults.scheduler,
            deterministic=self.deterministic,
            source=source,
        )
        for name, side in (("width", request.width), ("height", request.height)):
            if not is_allowed(side, limits):
                raise InvalidRequest(
                    problem=f"{name} is {side}: send a multiple of {limits.side_multiple} "
                    f"from {limits.min_side} to {limits.max_side}."
                )
        if request.steps > limits.max_steps:
            raise InvalidRequest(problem=f"steps is {request.steps}: send 1 to {limits.max_steps}.")
        if request.guidance > limits.max_guidance:
            raise InvalidRequest(problem=f"guidance is {request.guidance:g}: send 0 to {limits.max_guidance:g}.")
        if source is not None and int(source.strength * request.steps) < 1:
            raise InvalidRequest(
                problem=f"strength is {source.strength:g}: of {request.steps} steps that leaves none to take. "
                f"Send at least {1 / request.steps:.2g}, or more steps."
            )
        return request


class GenerateBody(Parameters):
    """A text to make an image of. Only `prompt` is needed; the profile has defaults for the rest."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": RED_APPLE}, {"prompt": RED_APPLE, "seed": 7}]})

    prompt: Prompt
    width: int | None = Field(None, ge=1, description="In pixels.")
    height: int | None = Field(None, ge=1, description="In pixels.")

    def resolve(self, settings: DiffusionSettings) -> GenerationRequest:
        """Fill in the profile's defaults and check its limits.

        Raises:
            InvalidRequest: a value is outside of what the profile allows; says what is inside.
        """
        defaults = settings.defaults
        return self.complete(settings, self.prompt, self.width or defaults.width, self.height or defaults.height)


NumImages = Annotated[int, Field(ge=1, le=MAX_IMAGES, description="How many images; each has the next seed.")]
Strength = Annotated[
    float, Field(gt=0, le=1, allow_inf_nan=False, description="How much may change; 1 begins from noise.")
]


def with_consecutive_seeds(request: GenerationRequest, number: int) -> Sequence[GenerationRequest]:
    """The requests for several images at once: each has the seed after the one before."""
    return [replace(request, seed=(request.seed + i) % SEEDS) for i in range(number)]


def is_allowed(side: int, limits: GenerationLimits) -> bool:
    """Whether an image may be so many pixels wide or high."""
    return limits.min_side <= side <= limits.max_side and side % limits.side_multiple == 0


def nearest_size(width: int, height: int, limits: GenerationLimits) -> tuple[int, int]:
    """The allowed width and height nearest to a picture's own: its own, if it is allowed.

    Args:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
    """
    multiple = limits.side_multiple
    least, most = -(-limits.min_side // multiple) * multiple, limits.max_side // multiple * multiple
    scale = min(1.0, most / max(width, height))
    scale = max(scale, least / min(width, height))

    def allowed(side: int) -> int:
        return min(most, max(least, round(side * scale / multiple) * multiple))

    return allowed(width), allowed(height)
