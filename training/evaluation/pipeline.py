"""End-to-end accuracy of prompts through the three serving engines: generation, segmentation, classification.

An image is correct if the labels of its regions, apart from background, are the objects of the prompt, each once, and
no others. Masks and image quality are not scored here, but in the other evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.progress import track

from pipeline.imaging.masks import masked_crops
from pipeline.records import Pixels
from pipeline.settings import Profile
from training.diffusion.generated_images import covers_border, load_images
from training.diffusion.prompt_sets import Prompt, pair_prompts, readme_prompts, single_prompts, unseen_prompts
from training.evaluation.clip import load_clip
from training.evaluation.diffusion import COLOURS_EACH, PAIRS, UNSEEN_EACH
from training.evaluation.measures import Figure
from training.evaluation.sam2 import tint
from training.sam2.serving import Masks, masks_of, open_engine, segment
from training.scenes.contact_sheet import caption_cell, lay_out

README_SEEDS = 100
BACKGROUND = "background"
SHEET = 48  # images
COLUMNS = 6


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The service's result for a prompt."""

    prompt: Prompt
    image: Pixels
    masks: Masks  # (n, h, w)
    names: tuple[str, ...]  # n

    @property
    def wanted(self) -> list[str]:
        """The kinds in the prompt, in alphabetical order."""
        return sorted(kind for kind, _ in self.prompt.things)

    @property
    def named(self) -> list[str]:
        """The labels of all regions except the background, in alphabetical order."""
        return sorted(name for name in self.names if name != BACKGROUND)

    @property
    def is_right(self) -> bool:
        """Whether the labels are exactly those of the prompt."""
        return self.named == self.wanted

    @property
    def has_right_regions(self) -> bool:
        """Whether there are as many regions as objects, not counting those that cover the border like a background."""
        return sum(not covers_border(mask) for mask in self.masks) == len(self.prompt.things)

    @property
    def has_right_relation(self) -> bool:
        """Whether the spatial relation of two found objects matches the prompt."""
        first, second = (self.masks[self.names.index(kind)] for kind, _ in self.prompt.things)
        return stand_in(self.prompt.relation or "", first, second)


def evaluate_pipeline(models: Path, work: Path, side: int, profile: Profile) -> list[Figure]:
    """Evaluate singles, unseen combinations, pairs, and the README's prompt; print failures.

    Writes a contact sheet of 48 prompts to `work/pipeline.png`.
    """
    prompt_sets = {
        f"README's prompt, {README_SEEDS} seeds": (readme_prompts(README_SEEDS), 0.97),
        "one thing": (single_prompts(COLOURS_EACH), 0.95),
        "one thing in an unseen colour": (unseen_prompts(UNSEEN_EACH), 0.95),
        "two things": (pair_prompts(PAIRS), 0.85),
    }
    figures, outcomes = [], []
    for what, (prompts, goal) in prompt_sets.items():
        found = run_pipeline(prompts, models, work, side, profile)
        outcomes += found
        figures.append(Figure.share(f"Pipeline: {what}, found and named", [each.is_right for each in found], goal))
        if what in ("one thing", "two things"):
            regions = [each.has_right_regions for each in found]
            share = 0.9 if what == "one thing" else 0.8
            figures.append(Figure.share(f"SAM2 on generated images: {what} and background, no more", regions, share))
        if what == "two things":
            related = [each.has_right_relation for each in found if each.is_right]
            figures.append(Figure.share("Pipeline: relation right where both were found", related, 0.9))
    print_failures(outcomes)
    draw_sheet(choose_for_sheet(outcomes)).save(work / "pipeline.png")
    return figures


def run_pipeline(prompts: Sequence[Prompt], models: Path, work: Path, side: int, profile: Profile) -> list[Outcome]:
    """Generate, segment, and classify regions as the service does."""
    images = load_images(prompts, models / "diffusion", work, side)
    segmenter = open_engine(models / "sam2")
    clip = load_clip(models)
    outcomes = []
    for image, prompt in zip(track(images, f"Understanding {len(images)} images"), prompts, strict=True):
        segmentation = segment(segmenter, image, profile.sam2.everything)
        crops = list(masked_crops(image, segmentation, clip.fill))
        descriptions = clip.describe(crops, profile.clip.labelling)
        names = tuple(labels[0] for labels in descriptions.labels)
        outcomes.append(Outcome(prompt=prompt, image=image, masks=masks_of(segmentation), names=names))
    return outcomes


def stand_in(relation: str, first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> bool:
    """Whether the first mask stands in a relation to the second, by their boxes.

    Two objects are side by side if the horizontal distance of their centres exceeds the vertical one. An object in or
    on another has its centre above it, and higher than the other's lower edge.
    """
    (x, y), (other_x, other_y) = middle(first), middle(second)
    if relation in ("left of", "right of"):
        return abs(x - other_x) > abs(y - other_y)
    rows, columns = np.flatnonzero(second.any(1)), np.flatnonzero(second.any(0))
    return bool(columns[0] <= x <= columns[-1] and y < rows[-1])


def middle(mask: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The centre of a mask's box, x and y."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2


def print_failures(outcomes: Sequence[Outcome]) -> None:
    """Print the labels found for failed prompts."""
    for each in outcomes:
        if not each.is_right:
            Console().print(f"{each.prompt.text}, seed {each.prompt.seed}: {', '.join(each.names) or 'no regions'}")


def choose_for_sheet(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Evenly spaced images, correct or not."""
    return [outcomes[i * len(outcomes) // SHEET] for i in range(SHEET)]


def draw_sheet(outcomes: Sequence[Outcome]) -> Image.Image:
    """Images and their regions, with the prompts and the regions' labels."""
    cells = []
    for each in outcomes:
        both = np.hstack([each.image, tint(each.image, each.masks)])
        verdict = "" if each.is_right else "WRONG: "
        cells.append(caption_cell(both, f"{verdict}{each.prompt.text} : {', '.join(each.names)}", lines=2))
    return lay_out(cells, COLUMNS)
