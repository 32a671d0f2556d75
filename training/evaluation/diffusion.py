"""Evaluation of the diffusion model's prompt fidelity, through the serving engine, scored by the judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from pipeline.records import Pixels
from training.diffusion.generated_images import Images, load_images
from training.diffusion.prompt_sets import Prompt, pair_prompts, readme_prompts, single_prompts, unseen_prompts
from training.evaluation.judge import DRAWN_SIDE, Verdicts, judge_pictures, load_judge
from training.evaluation.measures import Figure
from training.scenes.contact_sheet import lay_out
from training.scenes.dataset import COLOUR_NAMES, KIND_NAMES, NONE, Choice, load_scenes

COLOURS_EACH, UNSEEN_EACH, PAIRS = 2, 1, 100  # per kind, per kind, prompts
REAL = 500  # scenes to evaluate the judge
COLUMNS, CAPTION_PX = 6, 16


def evaluate_diffusion(folder: Path, work: Path, side: int) -> list[Figure]:
    """Evaluate kinds and colours in images of one object, seen and unseen, and both kinds in images of two.

    Writes a contact sheet to `work/diffusion.png`, and prints the kinds that fail most.
    """
    judge = load_judge(work)
    figures = judge_the_judge(judge, work)
    singles, unseen, pairs = single_prompts(COLOURS_EACH), unseen_prompts(UNSEEN_EACH), pair_prompts(PAIRS)
    images = [load_images(prompts, folder, work, side) for prompts in (singles, unseen, pairs)]
    draw_sheet(folder, work, side, [(singles, images[0]), (unseen, images[1]), (pairs, images[2])]).save(
        work / "diffusion.png"
    )
    kinds, colours = judge_singles(judge_pictures(judge, images[0]), singles)
    figures.append(Figure.share("Diffusion: one thing, right object", kinds, 0.96))
    figures.append(Figure.share("Diffusion: one thing, right colour", colours, 0.98))
    print_weak([prompt for prompt, right in zip(singles, kinds, strict=True) if not right])
    kinds, colours = judge_singles(judge_pictures(judge, images[1]), unseen)
    both = [kind and colour for kind, colour in zip(kinds, colours, strict=True)]
    figures.append(Figure.share("Diffusion: unseen colour × object, both right", both, 0.98))
    found = judge_pairs(judge_pictures(judge, images[2]), pairs)
    figures.append(Figure.share("Diffusion: two things, both objects there", found, 0.80))
    print_weak([prompt for prompt, right in zip(pairs, found, strict=True) if not right])
    return figures


def judge_singles(verdicts: Verdicts, prompts: Sequence[Prompt]) -> tuple[list[bool], list[bool]]:
    """For each prompt of one object: whether its kind is the judge's best, and whether the best kind has its colour."""
    seen = verdicts.presence.argmax(1)
    kinds = [KIND_NAMES[k] == prompt.things[0][0] for k, prompt in zip(seen, prompts, strict=True)]
    painted = verdicts.colours[np.arange(len(seen)), seen]
    colours = [COLOUR_NAMES[c] == prompt.things[0][1] for c, prompt in zip(painted, prompts, strict=True)]
    return kinds, colours


def judge_pairs(verdicts: Verdicts, prompts: Sequence[Prompt]) -> list[bool]:
    """For each prompt of several objects: whether their kinds are the judge's best."""
    wanted = [{KIND_NAMES.index(kind) for kind, _ in prompt.things} for prompt in prompts]
    return [likeliest(row, len(kinds)) == kinds for row, kinds in zip(verdicts.presence, wanted, strict=True)]


def likeliest(presence: npt.NDArray[np.float32], num: int) -> set[int]:
    """The kinds of the highest logits, (k,)."""
    return set(np.argsort(-presence)[:num].tolist())


def judge_the_judge(judge: Any, work: Path) -> list[Figure]:
    """Accuracy of the judge on held-out drawn scenes: the reliability of its verdicts."""
    single = load_scenes(Choice(num=REAL, side=DRAWN_SIDE, split="test", num_things=1), work)
    verdicts = judge_pictures(judge, single.pixels)
    seen = verdicts.presence.argmax(1)
    kinds = (seen == single.kinds[:, 0]).tolist()
    colours = (verdicts.colours[np.arange(REAL), seen] == single.colours[:, 0]).tolist()
    pairs = load_scenes(Choice(num=REAL, side=DRAWN_SIDE, split="test", num_things=2), work)
    shown = [{int(k) for k in row if k != NONE} for row in pairs.kinds]
    presence = judge_pictures(judge, pairs.pixels).presence
    both = [likeliest(row, len(kinds)) == kinds for row, kinds in zip(presence, shown, strict=True)]
    return [
        Figure.share("Judge on drawn scenes: one thing, right object", kinds, 0.98),
        Figure.share("Judge on drawn scenes: one thing, right colour", colours, 0.98),
        Figure.share("Judge on drawn scenes: two things, exactly these", both, 0.95),
    ]


def print_weak(failed: Sequence[Prompt]) -> None:
    """Print the kinds that failed, most often first."""
    weak = Counter(kind for prompt in failed for kind, _ in prompt.things)
    Console().print("Failed:", ", ".join(f"{kind} {times}" for kind, times in weak.most_common(12)) or "none")


def draw_sheet(folder: Path, work: Path, side: int, sets: Sequence[tuple[Sequence[Prompt], Images]]) -> Image.Image:
    """Images with their prompts: four of the README's, and ten of each set."""
    readme = readme_prompts(4)
    cells = [
        head_cell(image, prompt.text)
        for image, prompt in zip(load_images(readme, folder, work, side), readme, strict=True)
    ]
    for prompts, images in sets:
        step = len(prompts) // 10
        cells += [head_cell(images[i], prompts[i].text) for i in range(0, 10 * step, step)]
    return lay_out(cells, COLUMNS)


def head_cell(pixels: Pixels, text: str) -> Image.Image:
    """An image with its prompt."""
    height, width = pixels.shape[:2]
    margin = 40
    cell = Image.new("RGB", (width + margin, height + CAPTION_PX + 4), "white")
    ImageDraw.Draw(cell).text((2, 2), text, "black", ImageFont.load_default(9))
    cell.paste(Image.fromarray(np.asarray(pixels)), (margin // 2, CAPTION_PX))
    return cell
