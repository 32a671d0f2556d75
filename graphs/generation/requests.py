"""From wanted parameters to a `GenerationRequest`: a profile's defaults and limits, sizes, consecutive seeds."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.errors import InvalidRequest
from pipeline.jobs import IdempotencyKey
from pipeline.records import NO_ANNOTATIONS, Annotations, EditArea, GenerationRequest, Scheduler, Source
from pipeline.settings import DiffusionSettings, GenerationLimits

SEEDS = 2**32


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationJobSpec:
    """An image to generate, and for whom."""

    request: GenerationRequest
    owner: str
    sessions: Sequence[str]  # whose last image it becomes
    request_id: str
    key: IdempotencyKey | None = None
    annotations: Annotations = NO_ANNOTATIONS
    area: EditArea | None = None  # of an edit


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationOptions:
    """What decides an image beside its prompt and its size; None is the profile's default, or a random seed."""

    negative_prompt: str = ""
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    scheduler: Scheduler | None = None
    deterministic: bool = False


def to_request(
    options: GenerationOptions,
    settings: DiffusionSettings,
    prompt: str,
    width: int,
    height: int,
    source: Source | None = None,
) -> GenerationRequest:
    """Fill in the profile's defaults and check its limits.

    Raises:
        InvalidRequest: a value is outside of what the profile allows; says what is inside.
    """
    defaults, limits = settings.defaults, settings.limits
    request = GenerationRequest(
        prompt=prompt,
        negative_prompt=options.negative_prompt,
        width=width,
        height=height,
        steps=options.steps or defaults.steps,
        guidance=defaults.guidance if options.guidance is None else options.guidance,
        seed=secrets.randbelow(SEEDS) if options.seed is None else options.seed,
        scheduler=options.scheduler or defaults.scheduler,
        deterministic=options.deterministic,
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
