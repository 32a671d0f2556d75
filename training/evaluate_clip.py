"""How well the CLIP model names what drawn scenes show, through the engine that serves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.engines.clip import ClipEngine
from pipeline.records import Pixels
from pipeline.settings import ClipSettings, Labelling, ModelSource
from training.dataset import COLOUR_NAMES, KIND_NAMES, NONE, Choice, Scenes, load_scenes
from training.measures import Figure

SINGLE, PAIRS = 1000, 500  # scenes
BATCH = 100


def evaluate_clip(folder: Path, scenes: Path, side: int) -> list[Figure]:
    """Measure naming in single-object scenes, seen and unseen, and probing for colours in two-object scenes."""
    engine = ClipEngine(ClipSettings(model=ModelSource(source=str(folder.resolve()))), "cpu")
    labelling = Labelling(labels=KIND_NAMES, top_k=1)
    figures = []
    for combination, goal in (("seen", 0.97), ("unseen", 0.93)):
        choice = Choice(num=SINGLE, side=side, split="test", num_things=1, combination=combination)  # type: ignore[arg-type]
        shown = load_scenes(choice, scenes)
        right = [
            label[0] == KIND_NAMES[kind]
            for start in range(0, SINGLE, BATCH)
            for label, kind in zip(
                engine.describe(list(shown.pixels[start : start + BATCH]), labelling).labels,
                shown.kinds[start : start + BATCH, 0],
                strict=True,
            )
        ]
        figures.append(Figure.share(f"CLIP: top-1 object, {combination} colour × object", right, goal))
    pairs = load_scenes(Choice(num=PAIRS, side=side, split="test", num_things=2), scenes)
    figures.append(Figure.share("CLIP: the named colour's region scores highest", probe_colours(engine, pairs), 0.95))
    return figures


def probe_colours(engine: ClipEngine, pairs: Scenes) -> list[bool]:
    """For each thing in scenes of two differently coloured ones: whether its colour's name picks it, not the other."""
    words = engine.encode_texts(COLOUR_NAMES)  # (colours, d)
    right = []
    for i in range(len(pairs)):
        colours = pairs.colours[i][pairs.kinds[i] != NONE]
        if len(set(colours)) < 2:
            continue
        crops = [cut_out(pairs, i, number, engine.fill) for number in (1, 2)]
        vectors = engine.describe(crops, Labelling(labels=KIND_NAMES, top_k=1)).vectors  # (2, d)
        right += [int((vectors @ words[colour]).argmax()) == thing for thing, colour in enumerate(colours)]
    return right


def cut_out(scenes: Scenes, index: int, number: int, fill: tuple[int, int, int]) -> Pixels:
    """Crop a thing along its true mask, everything else blanked, as `pipeline.regions.masked_crops` does."""
    mask = scenes.owners[index] == number
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    area = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    crop: Pixels = np.where(mask[area][..., None], scenes.pixels[index][area], np.array(fill, np.uint8))
    return crop
