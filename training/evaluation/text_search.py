"""Evaluation of text search in drawn scenes of two objects, with names of present and of absent objects.

Runs the service's pipeline: the profile's grid and thresholds, masked crops, CLIP, `pipeline.text_scoring`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track

from pipeline.engines.clip import ClipEngine
from pipeline.imaging.masks import masked_crops
from pipeline.records import Vectors
from pipeline.settings import Profile, TextSearchSettings
from pipeline.text_scoring import Vector, rank
from training.evaluation.clip import load_clip
from training.evaluation.measures import Figure
from training.evaluation.sam2 import VISIBLE, pairwise_iou
from training.sam2.serving import Masks, masks_of, open_engine, segment
from training.scenes.dataset import COLOUR_NAMES, KIND_NAMES, NONE, Choice, Scenes, load_scenes
from training.scenes.objects.kinds import KINDS

NUM = 300  # scenes
ALIKE, CLOSE = 0.5, 0.75  # IoU


@dataclass(frozen=True, kw_only=True)
class Sight:
    """The models' results for one scene, and the ground truth."""

    regions: Vectors  # (n, d)
    picture: Vector
    iou: npt.NDArray[np.float32]  # (things, n), of those that show enough of themselves
    things: tuple[tuple[str, str], ...]  # kind and colour of each of them
    absent: tuple[str, ...]  # kinds of no object; nor "orange" if one has that colour


@dataclass(frozen=True, kw_only=True)
class Question:
    """A text about a scene."""

    sight: Sight
    text: str
    thing: int | None  # the object it names; None for an absent one


def evaluate_finding(models: Path, scenes: Path, side: int, profile: Profile) -> list[Figure]:
    """Measure recall of present objects and rejection of absent ones, on held-out scenes of two objects.

    Args:
        models: the folder with `clip` and `sam2`.
        scenes: where drawn scenes are kept.
        side: of the scenes, in pixels.
        profile: with the settings to evaluate.
    """
    shown = load_scenes(Choice(num=NUM, side=side, split="test", num_things=2), scenes)
    engine = load_clip(models)
    sights = look_at(shown, models, engine, profile)
    inside = [iou >= ALIKE for sight in sights for iou in sight.iou.max(1, initial=0)]
    figures = [Figure.share("Finding: the named thing is one of the regions at all, IoU ≥ 0.5", inside, 0.9)]
    for what, coloured in (("its kind", False), ("its colour and kind", True)):
        questions = list(ask(sights, coloured))
        best, num_found = answer(engine, questions, profile.clip.finding)
        named = np.array([question.thing is not None for question in questions])
        figures += [
            Figure.share(f"Finding: by {what}, IoU ≥ 0.5", (best[named] >= ALIKE).tolist(), 0.9),
            Figure.share(f"Finding: by {what}, IoU ≥ 0.75", (best[named] >= CLOSE).tolist(), 0.7),
            Figure.share(f"Finding: nothing for an absent thing by {what}", (num_found[~named] == 0).tolist(), 0.8),
        ]
    return figures


def look_at(shown: Scenes, models: Path, engine: ClipEngine, profile: Profile) -> list[Sight]:
    """Segment and describe scenes as the service does."""
    segmenter = open_engine(models / "sam2")
    sights = []
    for i in track(range(len(shown)), f"Looking at {len(shown)} scenes"):
        pixels = np.asarray(shown.pixels[i])
        segmentation = segment(segmenter, pixels, profile.sam2.everything)
        crops = masked_crops(pixels, segmentation, engine.fill)
        vectors = engine.describe([pixels, *crops], profile.clip.labelling).vectors
        sights.append(compare(shown, i, picture=vectors[0], regions=vectors[1:], masks=masks_of(segmentation)))
    return sights


def compare(shown: Scenes, index: int, *, picture: Vector, regions: Vectors, masks: Masks) -> Sight:
    """Match the regions with the ground truth."""
    numbers = [number for number, kind in enumerate(shown.kinds[index]) if kind != NONE]
    things = [(KIND_NAMES[shown.kinds[index, n]], COLOUR_NAMES[shown.colours[index, n]]) for n in numbers]
    truth: Masks = np.array([shown.owners[index] == number + 1 for number in numbers])
    seen = truth.mean((1, 2)) >= VISIBLE
    words = {word for thing in things for word in thing}
    return Sight(
        regions=regions,
        picture=picture,
        iou=pairwise_iou(truth[seen], masks),
        things=tuple(thing for thing, is_seen in zip(things, seen, strict=True) if is_seen),
        absent=tuple(kind for kind in KIND_NAMES if kind not in words),
    )


def ask(sights: list[Sight], coloured: bool) -> Iterator[Question]:
    """Name each object of each scene, and for each an absent one of a random kind and colour."""
    rng = np.random.default_rng(0)
    for sight in sights:
        for number, (kind, colour) in enumerate(sight.things):
            yield Question(sight=sight, text=name(kind, colour if coloured else None), thing=number)
            absent = str(rng.choice(sight.absent)), str(rng.choice(COLOUR_NAMES))
            yield Question(sight=sight, text=name(absent[0], absent[1] if coloured else None), thing=None)


def name(kind: str, colour: str | None) -> str:
    """The search text: "apple", or "red apple"."""
    word = KINDS[kind].word
    return word if colour is None else f"{colour} {word}"


def answer(
    engine: ClipEngine, questions: list[Question], finding: TextSearchSettings
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Search for each text in its scene.

    Returns:
        IoU of the best region with the named thing, 0 where nothing was found or nothing was there; and how many
        regions were found.
    """
    best = np.zeros(len(questions), np.float32)
    num_found = np.zeros(len(questions), np.int64)
    for i, question in enumerate(questions):
        sight = question.sight
        (text,) = engine.encode_texts([finding.template.format(text=question.text)])
        found = rank(sight.regions, sight.picture, text, finding)
        num_found[i] = len(found)
        if len(found) and question.thing is not None:
            best[i] = sight.iou[question.thing, found.region_ids[0]]
    return best, num_found
