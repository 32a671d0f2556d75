"""What an image shows, as numbers: what clients of its analysis send and get."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from graphs.analysis.queries import ConceptScores, LabelProbabilities
from graphs.http.schemas.common import Answer, Warnings
from graphs.http.schemas.generation import Prompt, RequestBody
from graphs.http.schemas.segments import DECIMALS, Label
from pipeline.records import AnswerWarning, Vectors

MAX_CONCEPTS = 50
MAX_LABEL_TEXTS = 256  # labels times templates
MAX_LABEL_CHARS = 100
MAX_INPUTS = 256


class RegionLabels(BaseModel):
    region_id: int = Field(description="Id of the region.")
    labels: list[Label] = Field(description="What the region shows, best first.")


class ImageLabels(Answer):
    """What an image and each of its regions show, best first."""

    labels: list[Label] = Field(description="What the image shows, best first.")
    regions: list[RegionLabels] = Field(description="What each region shows.")
    warnings: Warnings


def image_labels(
    found: LabelProbabilities, *, request_id: str, image_id: str, warnings: Sequence[AnswerWarning]
) -> ImageLabels:
    """Write shares of labels down."""
    rows = [
        [Label(label=found.labels[i], confidence=rounded[i]) for i in np.argsort(-row, kind="stable")]
        for row, rounded in zip(found.shares, _rounded(found.shares), strict=True)
    ]
    regions = [RegionLabels(region_id=number, labels=labels) for number, labels in enumerate(rows[1:])]
    return ImageLabels(
        request_id=request_id, image_id=image_id, labels=rows[0], regions=regions, warnings=list(warnings)
    )


class ConceptsBody(RequestBody):
    """Concepts to compare with an image and its regions."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"concepts": ["red", "metal"]}]})

    concepts: list[Prompt] = Field(min_length=1, max_length=MAX_CONCEPTS, description="Texts to score.")


class ConceptMatch(BaseModel):
    """How a concept matches a picture."""

    concept: str = Field(description="The text.")
    cosine: float = Field(description="Of CLIP's vectors, -1 to 1.")
    match: float = Field(description="The cosine between the profile's bounds, 0 to 1.")
    share: float = Field(description="Among all concepts and none of these, which together make 1.")


class RegionConcepts(BaseModel):
    region_id: int = Field(description="Id of the region.")
    label: str = Field(description="What the region shows.")
    matches: list[ConceptMatch] = Field(description="Scores of each text.")
    none_of_these: float = Field(description='Softmax share of "none of these texts", 0 to 1.')


class ImageConcepts(Answer):
    """How concepts match an image and each of its regions, in the order in which they were sent."""

    matches: list[ConceptMatch] = Field(description="Scores of each text for the whole image.")
    none_of_these: float = Field(description='Softmax share of "none of these texts", 0 to 1.')
    regions: list[RegionConcepts] = Field(description="Scores for each region.")


def image_concepts(found: ConceptScores, *, request_id: str, image_id: str) -> ImageConcepts:
    """Write matches down."""

    def row(i: int) -> list[ConceptMatch]:
        numbers = (_rounded(each[i]) for each in (found.cosines, found.matches, found.shares))
        return [
            ConceptMatch(concept=concept, cosine=cosine, match=match, share=share)
            for concept, cosine, match, share in zip(found.concepts, *numbers, strict=True)
        ]

    none = _rounded(found.none)
    return ImageConcepts(
        request_id=request_id,
        image_id=image_id,
        matches=row(0),
        none_of_these=none[0],
        regions=[
            RegionConcepts(region_id=i - 1, label=label, matches=row(i), none_of_these=none[i])
            for i, label in enumerate(found.region_labels, start=1)
        ],
    )


def _rounded(scores: npt.NDArray[np.float32]) -> list[Any]:
    """Return an array of scores as a list, rounded as numbers of double precision."""
    rounded: list[Any] = np.round(scores.astype(np.float64), DECIMALS).tolist()
    return rounded


class VectorFormat(StrEnum):
    """How a vector is written."""

    FLOAT = "float"
    BASE64 = "base64"  # of float32, little endian


class ImageReference(BaseModel):
    """One of the caller's images."""

    model_config = ConfigDict(extra="forbid")

    image_id: UUID = Field(description="Id of one of your images.")


Input = Prompt | ImageReference


class EmbeddingsBody(BaseModel):
    """Texts and images to get vectors of."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"input": ["a red apple", "metal"]}]})

    input: Input | Annotated[list[Input], Field(min_length=1, max_length=MAX_INPUTS)] = Field(
        description="One text or image, or a list of them."
    )
    model: str | None = Field(None, description="Name of the model; the service's own if left out.")
    encoding_format: VectorFormat = Field(
        VectorFormat.FLOAT, description="Numbers, or Base64 of float32 (little endian)."
    )
    user: str | None = Field(None, description="Accepted for compatibility; ignored.")

    @property
    def inputs(self) -> list[str | ImageReference]:
        """One or many, as a list."""
        return self.input if isinstance(self.input, list) else [self.input]


class Embedding(BaseModel):
    object: Literal["embedding"] = Field(default="embedding", description="Always `embedding`.")
    index: int = Field(description="Position in the input.")
    embedding: list[float] | str = Field(description="The vector, of unit norm.")


class EmbeddingUsage(BaseModel):
    prompt_tokens: int = Field(description="Tokens of all texts.")
    total_tokens: int = Field(description="The same.")


class Embeddings(BaseModel):
    """Vectors of unit norm that texts and images share, in the order of the input."""

    object: Literal["list"] = Field(default="list", description="Always `list`.")
    data: list[Embedding] = Field(description="A vector for each input.")
    model: str = Field(description="Name of the model.")
    usage: EmbeddingUsage = Field(description="Tokens of the input.")


def embeddings(vectors: Vectors, format_: VectorFormat, *, model: str, tokens: int) -> Embeddings:
    """Write vectors, (n, d), down as OpenAI does."""

    def written(vector: Vectors) -> list[float] | str:
        if format_ is VectorFormat.BASE64:
            return b64encode(vector.astype("<f4").tobytes()).decode()
        numbers: list[float] = vector.tolist()
        return numbers

    return Embeddings(
        data=[Embedding(index=i, embedding=written(vector)) for i, vector in enumerate(vectors)],
        model=model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )
