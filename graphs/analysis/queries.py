"""CLIP queries on stored embeddings: probe, classify, match and search, without encoding the image again."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphs.concurrency import task_group
from graphs.workers.handles import Workers, retry_once
from pipeline.clip_scores import Scores, contrasts, ensembled, label_shares, matches
from pipeline.events import Event, ImageProbed
from pipeline.finding import Found, rank
from pipeline.records import Description, Descriptions, ImageRecord, Vectors
from pipeline.settings import ClipSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """How well a text matches an image and its regions, each from 0 to 1."""

    image_match: float
    region_matches: tuple[float, ...]
    region_labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelProbabilities:
    """How labels share an image and each of its n regions: row 0 is the image's, the others the regions'."""

    labels: tuple[str, ...]
    shares: Scores  # (1 + n, labels), each row of sum 1, or less by the share of what is none of them


@dataclass(frozen=True, kw_only=True, slots=True)
class ConceptScores:
    """How well concepts match an image and its n regions: row 0 is the image's, the others the regions'."""

    concepts: tuple[str, ...]
    cosines: Scores  # (1 + n, concepts)
    matches: Scores  # (1 + n, concepts), between the profile's bounds, 0 to 1
    shares: Scores  # (1 + n, concepts), of the concepts among themselves and `none`
    none: Scores  # (1 + n,), the share of what is none of them
    region_labels: tuple[str, ...]  # (n,)


class EmbeddingQueries:
    """Answers them.

    Args:
        describe: classifies an image for a request.
        describe_regions: classifies its regions for a request.
        emit: takes every event.
    """

    def __init__(
        self,
        settings: ClipSettings,
        workers: Workers,
        describe: Callable[[ImageRecord, str], Coroutine[Any, Any, Description]],
        describe_regions: Callable[[ImageRecord, str], Coroutine[Any, Any, Descriptions]],
        emit: Callable[[Event], None],
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._describe = describe
        self._describe_regions = describe_regions
        self._emit = emit

    async def probe(self, record: ImageRecord, text: str, request_id: str) -> ProbeResult:
        """Compare a text with the image and each of its regions."""
        found = await self.match(record, [text], request_id)
        image_match, *region_matches = found.matches[:, 0].tolist()
        return ProbeResult(
            image_match=image_match, region_matches=tuple(region_matches), region_labels=found.region_labels
        )

    async def match(self, record: ImageRecord, concepts: Sequence[str], request_id: str) -> ConceptScores:
        """Compare concepts with the image and each of its regions, and with each other."""
        started = time.monotonic()
        texts = [*concepts, *self._settings.probing.neutral]
        pictures, regions, vectors = await self._seen(record, texts, request_id)
        wanted, neutral = vectors[: len(concepts)], vectors[len(concepts) :]
        cosines = pictures @ wanted.T
        shares, none = contrasts(pictures, wanted, neutral, self._settings.labelling.logit_scale)
        self._emit(ImageProbed(request_id=request_id, image_id=record.image_id, seconds=time.monotonic() - started))
        return ConceptScores(
            concepts=tuple(concepts),
            cosines=cosines,
            matches=matches(cosines, self._settings.probing),
            shares=shares,
            none=none,
            region_labels=tuple(labels[0] for labels in regions.labels),
        )

    async def classify(
        self,
        record: ImageRecord,
        labels: Sequence[str],
        templates: Sequence[str],
        request_id: str,
        unknown: str | None = None,
    ) -> LabelProbabilities:
        """Classify the image and each of its regions by labels.

        Args:
            templates: prompts with `{label}` in them, whose vectors are averaged for each label.
            unknown: a text for what is none of the labels; it takes its share and is not listed.
        """
        words = [label.replace("_", " ") for label in labels]  # as data sets spell them
        texts = [template.replace("{label}", word) for word in words for template in templates]
        none = [] if unknown is None else [unknown]
        pictures, _, vectors = await self._seen(record, [*texts, *none], request_id)
        by_label = ensembled(vectors[: len(texts)].reshape(len(labels), len(templates), -1))
        everything = np.vstack([by_label, vectors[len(texts) :]])
        shares = label_shares(pictures, everything, self._settings.labelling.logit_scale)
        return LabelProbabilities(labels=tuple(labels), shares=shares[:, : len(labels)])

    async def find(self, record: ImageRecord, text: str, request_id: str) -> Found:
        """Find the regions that a text names; none if the image doesn't show it."""
        finding = self._settings.finding
        pictures, _, vectors = await self._seen(record, [finding.template.replace("{text}", text)], request_id)
        return rank(pictures[1:], pictures[0], vectors[0], finding)

    async def embed_texts(self, texts: Sequence[str], request_id: str) -> Vectors:
        """The vectors of texts, (n, d)."""
        return await retry_once("encode_texts", request_id, lambda: self._workers.encode_texts(texts), self._emit)

    async def embed(self, inputs: Sequence[str | ImageRecord], request_id: str) -> Vectors:
        """The vectors of texts and images, (n, d), in their order."""
        texts = [item for item in inputs if isinstance(item, str)]
        async with task_group() as group:
            encoding = group.create_task(self.embed_texts(texts, request_id)) if texts else None
            describing = {
                item.image_id: group.create_task(self._describe(item, request_id))
                for item in inputs
                if not isinstance(item, str)
            }
        of_text = dict(zip(texts, encoding.result() if encoding else (), strict=True))
        return np.stack(
            [of_text[item] if isinstance(item, str) else describing[item.image_id].result().vector for item in inputs]
        )

    async def _seen(
        self, record: ImageRecord, texts: Sequence[str], request_id: str
    ) -> tuple[Vectors, Descriptions, Vectors]:
        """The vectors of the image and its regions, (1 + n, d); what its regions show; the vectors of texts."""
        async with task_group() as group:
            encoding = group.create_task(self.embed_texts(texts, request_id))
            describing = group.create_task(self._describe(record, request_id))
            describing_regions = group.create_task(self._describe_regions(record, request_id))
        regions = describing_regions.result()
        return np.vstack([describing.result().vector, regions.vectors]), regions, encoding.result()
