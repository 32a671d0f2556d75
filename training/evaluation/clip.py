"""Evaluation of CLIP's classification of drawn and generated images, through the serving engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.answer_warnings import warnings_of
from pipeline.engines.clip import ClipEngine
from pipeline.records import Descriptions, Pixels
from pipeline.settings import ClipSettings, ModelSource, Profile, ZeroShotSettings
from training.clip.unknown_images import draw_unknown
from training.diffusion.generated_images import load_generated
from training.diffusion.prompt_sets import pair_prompts, single_prompts, unseen_prompts
from training.evaluation.diffusion import COLOURS_EACH, PAIRS, UNSEEN_EACH
from training.evaluation.measures import Figure, calibration_error
from training.scenes.dataset import COLOUR_NAMES, KIND_NAMES, NONE, Choice, Scenes, load_scenes

SINGLE, PAIR_SCENES, CROPPED = 500, 300, 400  # scenes
UNKNOWN = 200  # pictures
BATCH = 100
BACKGROUND = "background"
PHOTOGRAPHS = {  # included in the project's dependencies; none is training data
    "gradio": ("media_assets/images/*.jpg", "test_data/cheetah2.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
    "ultralytics": ("assets/*.jpg",),
}


@dataclass(frozen=True, kw_only=True)
class Named:
    """CLIP's descriptions of images, and the true labels."""

    descriptions: Descriptions
    true: tuple[str, ...]  # labels

    @property
    def right(self) -> list[bool]:
        """Whether the best label is the true one."""
        return [labels[0] == true for labels, true in zip(self.descriptions.labels, self.true, strict=True)]


def evaluate_clip(models: Path, work: Path, side: int, profile: Profile) -> list[Figure]:
    """Evaluate classification of images and regions, calibration, abstention, and probing for colours.

    Args:
        models: the folder of all models.
        work: where scenes and images are kept.
        side: of the images, in pixels.
        profile: with the labels and thresholds to evaluate.
    """
    engine = load_clip(models)
    labelling = profile.clip.labelling
    figures = []
    for combination, goal in (("seen", 0.97), ("unseen", 0.93)):
        choice = Choice(num=SINGLE, side=side, split="test", num_things=1, combination=combination)  # type: ignore[arg-type]
        shown = load_scenes(choice, work)
        named = name_all(engine, list(shown.pixels), [KIND_NAMES[k] for k in shown.kinds[:, 0]], labelling)
        figures.append(Figure.share(f"CLIP: top-1 object, {combination} colour × object", named.right, goal))
    drawn = name_regions(engine, load_scenes(Choice(num=CROPPED, side=side, split="test"), work), labelling)
    sets = (
        single_prompts(COLOURS_EACH),
        unseen_prompts(UNSEEN_EACH),
        pair_prompts(PAIRS),
    )  # as in the other evaluations
    everything = profile.sam2.everything
    generated = join(
        [name_regions(engine, load_generated(prompts, models, work, everything, side), labelling) for prompts in sets]
    )
    figures += [
        Figure.share("CLIP: held-out crops of regions, named right", drawn.right, 0.97),
        Figure.share("CLIP: the same on generated images", generated.right, 0.93),
    ]
    for what, some in (("", drawn), (" on generated images", generated)):
        error = calibration_error(some.descriptions.confidences[:, 0], some.right)
        figures.append(
            Figure(
                what=f"CLIP: expected calibration error{what}",
                value=error,
                goal=0.05,
                samples=len(some.right),
                smaller_is_better=True,
            )
        )
    figures += measure_abstention(engine, profile, drawn, generated, work, side)
    pairs = load_scenes(Choice(num=PAIR_SCENES, side=side, split="test", num_things=2), work)
    figures.append(Figure.share("CLIP: the named colour's region scores highest", probe_colours(engine, pairs), 0.95))
    return figures


def load_clip(models: Path) -> ClipEngine:
    """Load CLIP on the CPU."""
    return ClipEngine(ClipSettings(model=ModelSource(source=str((models / "clip").resolve()))), "cpu")


def name_all(engine: ClipEngine, pictures: Sequence[Pixels], true: Sequence[str], labelling: ZeroShotSettings) -> Named:
    """Classify images."""
    starts = range(0, len(pictures), BATCH)
    return join(
        [
            Named(descriptions=engine.describe(pictures[i : i + BATCH], labelling), true=tuple(true[i : i + BATCH]))
            for i in starts
        ]
    )


def join(parts: Sequence[Named]) -> Named:
    """Concatenate several parts."""
    descriptions = [part.descriptions for part in parts]
    return Named(
        descriptions=Descriptions(
            vectors=np.concatenate([each.vectors for each in descriptions]),
            labels=tuple(labels for each in descriptions for labels in each.labels),
            confidences=np.concatenate([each.confidences for each in descriptions]),
            unknown=np.concatenate([each.unknown for each in descriptions]),
        ),
        true=tuple(true for part in parts for true in part.true),
    )


def name_regions(engine: ClipEngine, scenes: Scenes, labelling: ZeroShotSettings) -> Named:
    """Classify every object and every background, each cropped along its mask."""
    crops, true = [], []
    for i in range(len(scenes)):
        for number in np.unique(scenes.owners[i]):
            if number <= scenes.kinds.shape[1]:
                crops.append(cut_out(scenes, i, int(number), engine.fill))
                true.append(KIND_NAMES[scenes.kinds[i, number - 1]] if number else BACKGROUND)
    return name_all(engine, crops, true, labelling)


def measure_abstention(
    engine: ClipEngine, profile: Profile, drawn: Named, generated: Named, work: Path, side: int
) -> list[Figure]:
    """Measure how often CLIP abstains, on unknown and on known content."""

    def abstains(descriptions: Descriptions) -> list[bool]:
        return [bool(share > labelling.max_unknown) for share in descriptions.unknown]

    def warns(descriptions: Descriptions) -> list[bool]:
        return [any(warnings_of(profile, None, description)) for description in descriptions]

    labelling = profile.clip.labelling
    rng = np.random.default_rng(0)
    scenes = load_scenes(Choice(num=CROPPED, side=side, split="test"), work)
    fill = np.array(engine.fill, np.uint8)
    nothing = [draw_unknown(scenes, fill, rng) for _ in range(UNKNOWN)]
    photographs = load_photographs()
    return [
        Figure.share(
            "CLIP: abstains from held-out pictures of nothing", abstains(engine.describe(nothing, labelling)), 0.9
        ),
        Figure.share("CLIP: warns of photographs", warns(engine.describe(photographs, labelling)), 0.9),
        Figure.share(
            "CLIP: does not warn of scenes",
            [not it for it in warns(engine.describe(list(scenes.pixels), labelling))],
            0.98,
        ),
        Figure.share(
            "CLIP: does not abstain from drawn regions", [not it for it in abstains(drawn.descriptions)], 0.98
        ),
        Figure.share(
            "CLIP: does not abstain from generated regions", [not it for it in abstains(generated.descriptions)], 0.95
        ),
    ]


def load_photographs() -> list[Pixels]:
    """Load photographs, whole and in quarters."""
    pictures = []
    for package, patterns in PHOTOGRAPHS.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"{package} isn't installed: run scripts/setup")
        for file in sorted(file for pattern in patterns for file in Path(spec.origin).parent.glob(pattern)):
            read = cv2.imread(str(file))
            if read is None:
                raise ValueError(f"{file.name} can't be read as a picture")
            whole = cv2.cvtColor(read, cv2.COLOR_BGR2RGB)
            height, width = whole.shape[0] // 2, whole.shape[1] // 2
            quarters = [whole[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
            pictures += [np.asarray(picture, np.uint8) for picture in (whole, *quarters)]
    return pictures


def probe_colours(engine: ClipEngine, pairs: Scenes) -> list[bool]:
    """Return, per object in scenes of two colours, whether the name of its colour selects its region."""
    words = engine.encode_texts(COLOUR_NAMES)  # (colours, d)
    right = []
    for i in range(len(pairs)):
        colours = pairs.colours[i][pairs.kinds[i] != NONE]
        if len(set(colours)) < 2:
            continue
        crops = [cut_out(pairs, i, number, engine.fill) for number in (1, 2)]
        vectors = engine.describe(crops, ZeroShotSettings(labels=KIND_NAMES, top_k=1)).vectors  # (2, d)
        right += [int((vectors @ words[colour]).argmax()) == thing for thing, colour in enumerate(colours)]
    return right


def cut_out(scenes: Scenes, index: int, number: int, fill: tuple[int, int, int]) -> Pixels:
    """Crop an object along its true mask, with the rest blanked, as `pipeline.imaging.masks.masked_crops` does."""
    mask: npt.NDArray[np.bool_] = scenes.owners[index] == number
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    area = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    crop: Pixels = np.where(mask[area][..., None], scenes.pixels[index][area], np.array(fill, np.uint8))
    return crop
