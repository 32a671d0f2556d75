"""What clients learn of a model: what it can do, within which limits."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, Field

from graphs.http.pagination import MAX_PAGE
from graphs.http.preferences import MAX_WAIT_S
from graphs.http.schemas.analysis import MAX_CONCEPTS, MAX_INPUTS, MAX_LABEL_CHARS, MAX_LABEL_TEXTS
from graphs.http.schemas.creation import MAX_MASK_CHARS, MAX_TAGS
from graphs.http.schemas.generation import MAX_IMAGES, MAX_PROMPT_CHARS
from graphs.http.schemas.openai import Model
from graphs.http.schemas.segments import MAX_POINTS
from graphs.images import MAX_METADATA
from pipeline.records import Scheduler
from pipeline.settings import GenerationDefaults, Profile, ServiceSettings

MAX_LISTED_LABELS = 1000


class Capability(StrEnum):
    """Something that a model is used for."""

    GENERATION = "generation"
    VARIATIONS = "variations"
    EDITS = "edits"
    SEGMENTATION = "segmentation"
    TEXT_SEARCH = "text_search"  # the regions that a text names
    TEXT_SEGMENTATION = "text_segmentation"  # as regions of their own, by SAM3, instead of those of segmentation
    CLASSIFICATION = "classification"
    SAFETY_CHECKER = "safety_checker"  # refuses images
    EMBEDDINGS = "embeddings"


class ModelLimits(BaseModel):
    """Limits of requests; null where the model does nothing of the kind, or the limit isn't known."""

    min_side: int | None = Field(description="Least width and height in pixels.")
    max_side: int | None = Field(description="Greatest width and height in pixels.")
    side_multiple: int | None = Field(description="Width and height are multiples of it, in pixels.")
    max_steps: int | None = Field(description="Denoising steps.")
    max_guidance: float | None = Field(description="Classifier-free guidance scale.")
    max_images: int | None = Field(description="Images of one request, `n`.")
    max_mask_chars: int | None = Field(description="Characters of a mask in Base64.")
    max_prompt_chars: int = Field(description="Characters of a prompt or another text.")
    max_prompt_tokens: int | None = Field(
        description="Tokens of a text that the model reads, with start and end token; null while it isn't ready."
    )
    max_concepts: int = Field(description="Texts of one probe.")
    max_label_texts: int = Field(description="Your own labels times templates.")
    max_label_chars: int = Field(description="Characters of one of your own labels or templates.")
    max_points: int = Field(description="Points of one region.")
    max_embedding_inputs: int = Field(description="Inputs of one request for embeddings.")
    max_metadata: int = Field(description="Keys of an image's metadata.")
    max_tags: int = Field(description="Tags of an image.")
    max_page: int = Field(description="Items on a page of a list.")
    max_body_bytes: int = Field(description="Bytes of a request's body.")
    max_upload_bytes: int = Field(description="Bytes of the body of an upload.")
    max_wait_s: float = Field(description="Seconds of `Prefer: wait=`.")
    deadline_s: float = Field(description="Seconds after which a request is cancelled.")
    retention_s: float | None = Field(description="Seconds after which images are deleted; null is never.")

    @classmethod
    def of(cls, settings: ServiceSettings, *, max_prompt_tokens: int | None, generation: dict[str, Any]) -> Self:
        """Collect the limits.

        Args:
            settings: of the service.
            max_prompt_tokens: of the model.
            generation: the limits of new images, by the names of the fields; None for all where there are none.
        """
        retention_s = settings.storage.retention.max_age_s
        return cls(
            **generation,
            max_prompt_chars=MAX_PROMPT_CHARS,
            max_prompt_tokens=max_prompt_tokens,
            max_concepts=MAX_CONCEPTS,
            max_label_texts=MAX_LABEL_TEXTS,
            max_label_chars=MAX_LABEL_CHARS,
            max_points=MAX_POINTS,
            max_embedding_inputs=MAX_INPUTS,
            max_metadata=MAX_METADATA,
            max_tags=MAX_TAGS,
            max_page=MAX_PAGE,
            max_body_bytes=settings.admission.max_body_bytes,
            max_upload_bytes=settings.admission.max_upload_bytes,
            max_wait_s=MAX_WAIT_S,
            deadline_s=settings.admission.deadline_s,
            retention_s=retention_s if math.isfinite(retention_s) else None,
        )


class ModelDetails(Model):
    """A model with what it can do. New capabilities may come."""

    capabilities: list[Capability] = Field(description="What the model is used for.")
    defaults: GenerationDefaults | None = Field(
        description="Parameters of a request that leaves them out; null for a model that makes no images."
    )
    limits: ModelLimits = Field(description="Limits of requests.")
    schedulers: list[Scheduler] = Field(description="Values of `scheduler`; empty for a model that makes no images.")
    labels: list[str] | None = Field(
        description=f"Labels of classification without your own; null if there are more than {MAX_LISTED_LABELS}."
    )
    num_labels: int = Field(description="Number of these labels.")
    fingerprint: str | None = Field(description="Digest of the weights; null while the model isn't ready.")

    @classmethod
    def of_images(
        cls,
        model: Model,
        profile: Profile,
        settings: ServiceSettings,
        *,
        fingerprint: str | None,
        max_prompt_tokens: int | None,
    ) -> Self:
        """Describe the model that makes images, with those that analyse them."""
        bounds = profile.diffusion.limits.model_dump()
        limits = ModelLimits.of(
            settings,
            max_prompt_tokens=max_prompt_tokens,
            generation=bounds | {"max_images": MAX_IMAGES, "max_mask_chars": MAX_MASK_CHARS},
        )
        return cls(
            **model.model_dump(),
            capabilities=_capabilities(profile),
            defaults=profile.diffusion.defaults,
            limits=limits,
            schedulers=list(Scheduler),
            fingerprint=fingerprint,
            **_labels(profile),
        )

    @classmethod
    def of_embeddings(
        cls,
        model: Model,
        profile: Profile,
        settings: ServiceSettings,
        *,
        fingerprint: str | None,
        max_prompt_tokens: int | None,
    ) -> Self:
        """Describe the model that makes vectors."""
        none = dict.fromkeys((*type(profile.diffusion.limits).model_fields, "max_images", "max_mask_chars"))
        limits = ModelLimits.of(settings, max_prompt_tokens=max_prompt_tokens, generation=none)
        return cls(
            **model.model_dump(),
            capabilities=[Capability.EMBEDDINGS, Capability.CLASSIFICATION],
            defaults=None,
            limits=limits,
            schedulers=[],
            fingerprint=fingerprint,
            **_labels(profile),
        )


def _capabilities(profile: Profile) -> list[Capability]:
    is_there = {
        Capability.SAFETY_CHECKER: profile.diffusion.safety_checker,
        Capability.TEXT_SEGMENTATION: profile.sam3 is not None,
        Capability.EMBEDDINGS: False,  # a model of its own
    }
    return [capability for capability in Capability if is_there.get(capability, True)]


def _labels(profile: Profile) -> dict[str, Any]:
    names = profile.clip.labelling.names
    return {"labels": list(names) if len(names) <= MAX_LISTED_LABELS else None, "num_labels": len(names)}
