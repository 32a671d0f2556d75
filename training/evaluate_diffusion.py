"""How well the diffusion model paints what prompts say, through the engine that serves it, as its judge sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track

from pipeline.engines.device import pick_device
from pipeline.engines.diffusion import DiffusionEngine
from pipeline.records import GenerationRequest, Pixels, Scheduler
from pipeline.settings import DiffusionSettings, GenerationDefaults, GenerationLimits, ModelSource
from training.captions import with_article
from training.casting import cast_scene
from training.contact_sheet import lay_out
from training.dataset import COLOUR_NAMES, KIND_NAMES, NONE, Choice, load_scenes
from training.judge import judge_pictures, load_judge
from training.measures import Figure
from training.splits import held_out_colour, list_colours
from training.things import KINDS
from training.train_diffusion import KNOWN_KINDS

STEPS, GUIDANCE = 15, 3.0  # as `configs/mini.yaml` has them
UNSEEN_EACH = 5  # pictures of each unseen combination
PAIRS = 100  # prompts
REAL = 500  # scenes on which the judge is judged
FORMS = ("{article}", "{bare}", "a photo of {article}", "a picture of {article}")
BESIDE = {"in": "in", "left of": "next to", "right of": "and"}  # relations that prompts state, and their words
PER_SHEET, COLUMNS, CAPTION_PX = 24, 6, 16

Named = tuple[str, str]  # kind and colour


@dataclass(frozen=True)
class Prompt:
    """A prompt and what must be in its picture."""

    text: str
    things: tuple[Named, ...]


def evaluate_diffusion(folder: Path, work: Path, side: int) -> list[Figure]:
    """Measure kinds and colours in pictures of one thing, seen and unseen, and both kinds in pictures of two.

    A contact sheet is left in `work/diffusion.png`.
    """
    engine = load_engine(folder, side)
    judge = load_judge(KNOWN_KINDS, work, side)
    figures = judge_the_judge(judge, work, side)
    draw_sheet(engine, side).save(work / "diffusion.png")

    kinds, colours = judge_singles(judge, engine, single_prompts(), side)
    figures.append(Figure.share("Diffusion: one thing, right object", kinds, 0.85))
    figures.append(Figure.share("Diffusion: one thing, right colour", colours, 0.92))
    kinds, colours = judge_singles(judge, engine, unseen_prompts(), side)
    both = [kind and colour for kind, colour in zip(kinds, colours, strict=True)]
    figures.append(Figure.share("Diffusion: unseen colour × object, both right", both, 0.65))
    pairs = pair_prompts(PAIRS)
    found = judge_pairs(judge, paint(engine, pairs, side), pairs)
    figures.append(Figure.share("Diffusion: two things, both objects there", found, 0.30))
    return figures


def load_engine(folder: Path, side: int) -> DiffusionEngine:
    """Load a pipeline folder as the service does."""
    settings = DiffusionSettings(
        model=ModelSource(source=str(folder.resolve())),
        defaults=GenerationDefaults(width=side, height=side, steps=STEPS, guidance=GUIDANCE, scheduler=Scheduler.DDIM),
        limits=GenerationLimits(min_side=64, max_side=256, side_multiple=32),
    )
    return DiffusionEngine(settings, pick_device("auto"))


def single_prompts() -> list[Prompt]:
    """One for each combination that training shows."""
    named = [(kind, colour) for kind in KNOWN_KINDS for colour in list_colours(kind, "train", "any")]
    return [say_one(thing, number) for number, thing in enumerate(named)]


def unseen_prompts() -> list[Prompt]:
    """Some for each combination that training never shows."""
    named = [(kind, held_out_colour(kind)) for kind in KNOWN_KINDS for _ in range(UNSEEN_EACH)]
    return [say_one(thing, number) for number, thing in enumerate(named)]


def pair_prompts(num: int) -> list[Prompt]:
    """Two things beside each other, or one in the other, in colours that training shows."""
    rng = Random("prompts of two things")
    prompts: list[Prompt] = []
    while len(prompts) < num:
        things, relation = cast_scene(rng, 2, KNOWN_KINDS, "train", "any")
        if relation in BESIDE:
            first, second = (with_article(name(thing)) for thing in things)
            prompts.append(Prompt(f"{first} {BESIDE[relation]} {second}", tuple(things)))
    return prompts


def say_one(thing: Named, number: int) -> Prompt:
    """One of several ways to ask for a thing."""
    text = FORMS[number % len(FORMS)].format(bare=name(thing), article=with_article(name(thing)))
    return Prompt(text, (thing,))


def name(thing: Named) -> str:
    """Its colour and its kind, in words."""
    kind, colour = thing
    return f"{colour} {KINDS[kind].word}"


def paint(engine: DiffusionEngine, prompts: Sequence[Prompt], side: int) -> npt.NDArray[np.uint8]:
    """Generate a picture for each prompt, (n, side, side, 3), the seed being its number."""
    return np.stack(
        [paint_one(engine, prompt.text, seed, side) for seed, prompt in enumerate(track(prompts, "Generating"))]
    )


def paint_one(engine: DiffusionEngine, prompt: str, seed: int, side: int) -> Pixels:
    """Generate a picture as the service would by default."""
    request = GenerationRequest(
        prompt=prompt,
        negative_prompt="",
        width=side,
        height=side,
        steps=STEPS,
        guidance=GUIDANCE,
        seed=seed,
        scheduler=Scheduler.DDIM,
    )
    *_, picture = engine.generate(request)
    if not isinstance(picture, np.ndarray):
        raise TypeError("the engine ended without a picture")
    return picture


def judge_singles(
    judge: Any, engine: DiffusionEngine, prompts: Sequence[Prompt], side: int
) -> tuple[list[bool], list[bool]]:
    """For each prompt of one thing: whether the judge sees that kind above all, and what it sees in that colour."""
    verdicts = judge_pictures(judge, paint(engine, prompts, side))
    seen = verdicts.presence.argmax(1)
    kinds = [KNOWN_KINDS[k] == prompt.things[0][0] for k, prompt in zip(seen, prompts, strict=True)]
    painted = verdicts.colours[np.arange(len(seen)), seen]
    colours = [COLOUR_NAMES[c] == prompt.things[0][1] for c, prompt in zip(painted, prompts, strict=True)]
    return kinds, colours


def judge_pairs(judge: Any, pictures: npt.NDArray[np.uint8], prompts: Sequence[Prompt]) -> list[bool]:
    """For each prompt of several things: whether the judge says yes to the kind of each."""
    presence = judge_pictures(judge, pictures).presence
    return [
        all(row[KNOWN_KINDS.index(kind)] > 0 for kind, _ in prompt.things)
        for row, prompt in zip(presence, prompts, strict=True)
    ]


def judge_the_judge(judge: Any, work: Path, side: int) -> list[Figure]:
    """How often the judge is right about drawn scenes that it hasn't seen: what its verdicts are worth."""
    single = load_scenes(Choice(num=REAL, side=side, split="test", num_things=1, kinds=KNOWN_KINDS), work)
    verdicts = judge_pictures(judge, single.pixels[:])
    seen = verdicts.presence.argmax(1)
    kinds = [KNOWN_KINDS[k] == KIND_NAMES[true] for k, true in zip(seen, single.kinds[:, 0], strict=True)]
    colours = (verdicts.colours[np.arange(REAL), seen] == single.colours[:, 0]).tolist()
    pairs = load_scenes(Choice(num=REAL, side=side, split="test", num_things=2, kinds=KNOWN_KINDS), work)
    shown = [{KIND_NAMES[k] for k in row if k != NONE} for row in pairs.kinds]
    said = judge_pictures(judge, pairs.pixels[:]).presence > 0
    both = [{KNOWN_KINDS[k] for k in np.flatnonzero(row)} == true for row, true in zip(said, shown, strict=True)]
    return [
        Figure.share("Judge on drawn scenes: one thing, right object", kinds, 0.97),
        Figure.share("Judge on drawn scenes: one thing, right colour", colours, 0.97),
        Figure.share("Judge on drawn scenes: two things, exactly these", both, 0.90),
    ]


def draw_sheet(engine: DiffusionEngine, side: int) -> Image.Image:
    """Pictures of 24 prompts, each under its prompt: one thing, unseen combinations and two things."""
    single, unseen = single_prompts(), unseen_prompts()
    chosen = [Prompt("red apple in white plate", (("apple", "red"), ("plate", "white")))]
    chosen += [single[i * len(single) // 12 + i % 10] for i in range(12)]
    chosen += [unseen[(4 * i + 1) * UNSEEN_EACH] for i in range(4)]
    chosen += pair_prompts(PER_SHEET - len(chosen))
    return lay_out(
        [head_cell(paint_one(engine, prompt.text, 1000 + i, side), prompt.text) for i, prompt in enumerate(chosen)],
        COLUMNS,
    )


def head_cell(pixels: Pixels, text: str) -> Image.Image:
    """A picture under its prompt."""
    height, width = pixels.shape[:2]
    margin = 40
    cell = Image.new("RGB", (width + margin, height + CAPTION_PX + 4), "white")
    ImageDraw.Draw(cell).text((2, 2), text, "black", ImageFont.load_default(9))
    cell.paste(Image.fromarray(pixels), (margin // 2, CAPTION_PX))
    return cell
