"""Hyperparameters of a timed training: sizes for a machine, the data mix, and the time shares of stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self

import psutil
from pydantic import BaseModel, ConfigDict, Field, model_validator

Model = Literal["clip", "diffusion", "sam2"]
Part = Literal["drawing", "autoencoder", "denoiser", "sam2", "clip"]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]

PARTS: tuple[Part, ...] = ("drawing", "autoencoder", "denoiser", "sam2", "clip")
PARTS_OF: Mapping[Model, tuple[Part, ...]] = MappingProxyType(
    {"clip": ("clip",), "diffusion": ("autoencoder", "denoiser"), "sam2": ("sam2",)}
)
MEMORY_SHARE = 0.5  # of the free memory that scenes may take
# The weakest kinds after the first eight minutes.
WEAK_KINDS = ("snake", "caterpillar", "cup", "castle", "sunflower", "wardrobe", "skyscraper", "keyboard")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scale(_Record):
    """Sizes that suit a machine."""

    side: Annotated[int, Field(ge=32, multiple_of=32)]
    """Of the images, in pixels."""
    scenes_per_minute: Count
    """Scenes drawn for each minute of training."""
    chunk: Count
    """Scenes that a process draws at a time; all of them show as many things."""
    start_scenes: Count
    """Scenes that a part waits for before it trains; it takes twice as many at once if they are there."""
    autoencoder_batches: tuple[Count, Count]
    """Images in a batch, at first and from half of the time on."""
    autoencoder_images: Count
    """Images that the autoencoder keeps on its device."""
    text_batch: Count
    text_steps: Count
    """Steps of the text encoder's warm start at most."""
    denoiser_batch: Count
    segmenter_images: Count
    """Images in a batch of SAM2."""
    segmenter_prompts: Count
    """Prompts for each of them."""
    segmenter_scenes: Count
    """Scenes that SAM2 keeps on its device."""
    classifier_reconstructed: Count
    """Scenes that CLIP sees through the autoencoder too, if there is one."""
    warmup: Count
    """Steps in which learning rates rise."""
    min_steps: Count
    """Steps of each stage, even where its time is over."""
    compile: bool
    """Whether the UNet is compiled."""
    report_every_s: float
    write_every_s: float
    """Seconds between two writings of a part's weights."""
    grace_s: float
    """Seconds after the end of the training in which parts may write their weights."""


GPU = Scale(
    side=256,
    scenes_per_minute=15_000,
    chunk=50,
    start_scenes=3_000,
    autoencoder_batches=(16, 32),
    autoencoder_images=40_000,
    text_batch=512,
    text_steps=2_500,
    denoiser_batch=512,
    segmenter_images=64,
    segmenter_prompts=8,
    segmenter_scenes=60_000,
    classifier_reconstructed=4_000,
    warmup=200,
    min_steps=50,
    compile=True,
    report_every_s=15,
    write_every_s=50,
    grace_s=60,
)
CPU = Scale(
    side=128,
    scenes_per_minute=300,
    chunk=10,
    start_scenes=40,
    autoencoder_batches=(2, 2),
    autoencoder_images=4_000,
    text_batch=32,
    text_steps=400,
    denoiser_batch=8,
    segmenter_images=2,
    segmenter_prompts=4,
    segmenter_scenes=20_000,
    classifier_reconstructed=16,
    warmup=8,
    min_steps=8,
    compile=False,
    report_every_s=10,
    write_every_s=40,
    grace_s=120,
)
TINY = CPU.model_copy(
    update={
        "side": 64,
        "scenes_per_minute": 40,
        "start_scenes": 40,
        "segmenter_prompts": 3,
        "text_steps": 20,
        "warmup": 6,
        "min_steps": 9,
        "grace_s": 600.0,
    }
)
SCALES: Mapping[str, Scale] = MappingProxyType({"gpu": GPU, "cpu": CPU, "tiny": TINY})


class Mix(_Record):
    """Distribution of the numbers and kinds of objects in scenes."""

    singles: Share
    pairs: Share
    triples: Share
    """Shares of the scenes that are drawn."""
    sampled_pairs: Share
    sampled_triples: Share
    """Shares of the denoiser's batches."""
    early_pairs: Share
    early_triples: Share
    """The same for the first tenth of its time, while it learns what things look like."""
    kind_weights: dict[str, float] = {}
    """Sampling weights of kinds; the others have 1."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if abs(self.singles + self.pairs + self.triples - 1) > 1e-6:
            raise ValueError("singles, pairs and triples don't add up to 1")
        if self.sampled_pairs + self.sampled_triples > 1 or self.early_pairs + self.early_triples > 1:
            raise ValueError("pairs and triples are more than all of a batch")
        if any(weight <= 0 for weight in self.kind_weights.values()):
            raise ValueError("a kind's weight isn't positive")
        return self


FROM_SCRATCH = Mix(
    singles=0.5,
    pairs=0.4,
    triples=0.1,
    sampled_pairs=0.45,
    sampled_triples=0.08,
    early_pairs=0.25,
    early_triples=0.05,
)
FINE_TUNING = Mix(
    singles=0.3,
    pairs=0.55,
    triples=0.15,
    sampled_pairs=0.6,
    sampled_triples=0.1,
    early_pairs=0.6,
    early_triples=0.1,
    kind_weights=dict.fromkeys(WEAK_KINDS, 2.5),
)


class Timetable(_Record):
    """End times of stages, as shares of the training's minutes."""

    autoencoder: Share = 0.19
    compilation: Share = 0.23
    text: Share = 0.26
    drawing: Share = 0.45
    decoder: Share = 0.97


class TimedRecipe(_Record):
    """All settings of a training."""

    minutes: Annotated[float, Field(ge=0)]
    """Of training by the wall clock, after all parts have loaded their libraries."""
    models: tuple[Model, ...]
    out: Path
    """The folder of the models, in which each has a folder of its own."""
    work: Path
    """For the log, results and everything that isn't a model."""
    scale: Scale
    mix: Mix
    num_scenes: Count
    seed: int
    first_scene: Annotated[int, Field(ge=0)]
    """Seed of the first scene; the others follow."""
    fine_tune: bool
    """Start from the weights in `out` instead of from nothing."""
    rate_share: Annotated[float, Field(gt=0)]
    """Of the learning rates."""
    timetable: Timetable = Timetable()

    @property
    def first_chunks(self) -> int:
        """Chunks that a part takes at once before it trains."""
        return max(1, 2 * self.scale.start_scenes // self.scale.chunk)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The processes that train the models, drawing first."""
        needed = {part for model in self.models for part in PARTS_OF[model]}
        return ("drawing", *(part for part in PARTS if part in needed))


def count_scenes(scale: Scale, minutes: float) -> int:
    """Return how many scenes are drawn in so many minutes, or how many the free memory holds."""
    held = int(MEMORY_SHARE * psutil.virtual_memory().available / (4 * scale.side**2))
    return min(held, max(scale.start_scenes, round(scale.scenes_per_minute * minutes)))


FIRST_SCENE, SCENE_RANGE = 200_000_000, 500_000_000  # disjoint from the seeds of all other scenes
FINE_TUNE_RATE = 0.5


def plan_recipe(
    *,
    minutes: float,
    models: tuple[Model, ...],
    out: Path,
    work: Path,
    scale: Scale,
    num_scenes: int | None = None,
    start_checksum: int | None = None,
) -> TimedRecipe:
    """Plan a training.

    Args:
        minutes: of training.
        models: which.
        out: the folder of the models.
        work: for all other files.
        scale: sizes.
        num_scenes: to draw; None for as many as the scale has for these minutes and the free memory holds.
        start_checksum: of the weights in `out`, to start from them, with scenes and a seed derived from it; None
            to start from scratch.
    """
    chunks = max(1, (num_scenes or count_scenes(scale, minutes)) // scale.chunk)
    fine_tune = start_checksum is not None
    return TimedRecipe(
        minutes=minutes,
        models=models,
        out=out,
        work=work,
        scale=scale.model_copy(update={"start_scenes": min(scale.start_scenes, chunks * scale.chunk)}),
        mix=FINE_TUNING if fine_tune else FROM_SCRATCH,
        num_scenes=chunks * scale.chunk,
        seed=start_checksum or 0,
        first_scene=FIRST_SCENE + (start_checksum or 0) % SCENE_RANGE,
        fine_tune=fine_tune,
        rate_share=FINE_TUNE_RATE if fine_tune else 1.0,
    )
