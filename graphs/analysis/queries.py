"""CLIP's queries on stored embeddings of images and regions: probe, classify, match, rank."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphs.analysis.runner import StageRunner
from graphs.analysis.stages import DESCRIBE_REGIONS
from graphs.concurrency import task_group
from graphs.workers.handles import TextModelName, Workers, retry_once
from pipeline.events import DomainEvent, ImageProbed
from pipeline.records import Descriptions, ImageRecord, Vectors
from pipeline.settings import Profile
from pipeline.text_scoring import Found, Scores, contrasts, ensembled, label_shares, matches, rank


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


class ImageQueries:
    """Answers queries, mostly from the results of stages.

    Args:
        emit: takes every event.
    """

    def __init__(
        self,
        *,
        profile: Profile,
        workers: Workers,
        stages: StageRunner,
        emit: Callable[[DomainEvent], None],
    ) -> None:
        self._settings = profile.clip
        self._workers = workers
        self._stages = stages
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
        pictures, regions, vectors = await self._embed_all(record, texts, request_id)
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
        pictures, _, vectors = await self._embed_all(record, [*texts, *none], request_id)
        by_label = ensembled(vectors[: len(texts)].reshape(len(labels), len(templates), -1))
        everything = np.vstack([by_label, vectors[len(texts) :]])
        shares = label_shares(pictures, everything, self._settings.labelling.logit_scale)
        return LabelProbabilities(labels=tuple(labels), shares=shares[:, : len(labels)])

    async def rank_regions(self, record: ImageRecord, text: str, request_id: str) -> Found:
        """Rank the regions of automatic segmentation that a text names; maybe none."""
        finding = self._settings.finding
        pictures, _, vectors = await self._embed_all(record, [finding.template.replace("{text}", text)], request_id)
        return rank(pictures[1:], pictures[0], vectors[0], finding)

    async def count_tokens(self, model: TextModelName, texts: Sequence[str], request_id: str) -> int:
        """Count the tokens a model makes of texts, all together."""
        if not texts:
            return 0
        counts = await retry_once(
            "count_tokens", request_id, lambda: self._workers.count_tokens(model, texts), self._emit
        )
        return sum(counts)

    async def embed_texts(self, texts: Sequence[str], request_id: str) -> Vectors:
        """The vectors of texts, (n, d)."""
        return await retry_once("encode_texts", request_id, lambda: self._workers.encode_texts(texts), self._emit)

    async def embed(self, inputs: Sequence[str | ImageRecord], request_id: str) -> Vectors:
        """The vectors of texts and images, (n, d), in their order."""
        texts = [item for item in inputs if isinstance(item, str)]
        async with task_group() as group:
            encoding = group.create_task(self.embed_texts(texts, request_id)) if texts else None
            describing = {
                item.image_id: group.create_task(self._stages.describe(item, request_id))
                for item in inputs
                if not isinstance(item, str)
            }
        of_text = dict(zip(texts, encoding.result() if encoding else (), strict=True))
        return np.stack(
            [of_text[item] if isinstance(item, str) else describing[item.image_id].result().vector for item in inputs]
        )

    async def _embed_all(
        self, record: ImageRecord, texts: Sequence[str], request_id: str
    ) -> tuple[Vectors, Descriptions, Vectors]:
        """The vectors of the image and its regions, (1 + n, d); what its regions show; the vectors of texts."""
        async with task_group() as group:
            encoding = group.create_task(self.embed_texts(texts, request_id))
            describing = group.create_task(self._stages.describe(record, request_id))
            describing_regions = group.create_task(self._stages.result(DESCRIBE_REGIONS, record, request_id))
        regions = describing_regions.result()
        return np.vstack([describing.result().vector, regions.vectors]), regions, encoding.result()
