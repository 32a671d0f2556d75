"""Prompts with the expected content of their images, for training on generated images and for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from training.scenes.captions import with_article
from training.scenes.casting import cast_scene
from training.scenes.dataset import KIND_NAMES
from training.scenes.objects.kinds import KINDS
from training.scenes.splits import Split, held_out_colour, list_colours

FORMS = ("{article}", "{bare}", "a photo of {article}", "a picture of {article}")
RELATION_WORDS = {"in": "in", "on": "on", "left of": "next to", "right of": "and"}
PAIRS = 0.45  # share of prompts for training with two things
BACKGROUND_SHARE, BACKGROUNDS = 0.3, ("white", "blue", "green", "gray", "pink", "brown")
README_PROMPT = "red apple in white plate"
FIRST_UNSEEN, FIRST_PAIR, FIRST_README = 10_000, 20_000, 30_000  # seeds; those for training begin at a million

Named = tuple[str, str]  # kind and colour


@dataclass(frozen=True)
class Prompt:
    """A text, the seed of its image, and the expected content."""

    text: str
    things: tuple[Named, ...]
    seed: int
    relation: str | None = None  # of the first thing to the second, a key of RELATION_WORDS


def single_prompts(colours_each: int = 10) -> list[Prompt]:
    """Every kind in some of its training colours, of which there are 10."""
    named = [
        (kind, colour)
        for kind in KIND_NAMES
        for colour in Random(f"colours of {kind}").sample(list_colours(kind, "train", "any"), colours_each)
    ]
    return [say_one(thing, number, number) for number, thing in enumerate(named)]


def unseen_prompts(each: int = 1) -> list[Prompt]:
    """Every kind in its held-out colour, so many times."""
    named = [(kind, held_out_colour(kind)) for kind in KIND_NAMES for _ in range(each)]
    return [say_one(thing, number, FIRST_UNSEEN + number) for number, thing in enumerate(named)]


def pair_prompts(num: int) -> list[Prompt]:
    """Two objects side by side, or one in or on the other, in training colours."""
    rng = Random("prompts of two things")
    return [say_two(rng, "train", FIRST_PAIR + number) for number in range(num)]


def readme_prompts(num: int) -> list[Prompt]:
    """The README's prompt with many seeds."""
    things = (("apple", "red"), ("plate", "white"))
    return [Prompt(README_PROMPT, things, FIRST_README + number, "in") for number in range(num)]


def training_prompts(num: int, first: int) -> list[Prompt]:
    """Random prompts for one or two objects, some with a background, in training colours.

    Args:
        first: seed of the first one; the others follow.
    """
    return [training_prompt(first + i) for i in range(num)]


def training_prompt(seed: int) -> Prompt:
    """The random prompt of a seed."""
    rng = Random(f"prompt for training {seed}")
    if rng.random() < PAIRS:
        prompt = say_two(rng, "train", seed)
    else:
        (thing,), _ = cast_scene(rng, 1, KIND_NAMES, "train", "any")
        prompt = say_one(thing, rng.randrange(len(FORMS)), seed)
    if rng.random() >= BACKGROUND_SHARE:
        return prompt
    return Prompt(f"{prompt.text} on a {rng.choice(BACKGROUNDS)} background", prompt.things, seed, prompt.relation)


def say_one(thing: Named, form: int, seed: int) -> Prompt:
    """A random phrase for one object."""
    text = FORMS[form % len(FORMS)].format(bare=name(thing), article=with_article(name(thing)))
    return Prompt(text, (thing,), seed)


def say_two(rng: Random, split: Split, seed: int) -> Prompt:
    """A phrase for two objects in a random relation."""
    while True:
        things, relation = cast_scene(rng, 2, KIND_NAMES, split, "any")
        if relation in RELATION_WORDS:
            return Prompt(relate(things, relation), tuple(things), seed, relation)


def relate(things: Sequence[Named], relation: str) -> str:
    """A phrase for two objects in a relation."""
    first, second = (with_article(name(thing)) for thing in things)
    return f"{first} {RELATION_WORDS[relation]} {second}"


def name(thing: Named) -> str:
    """Its colour and kind in words."""
    kind, colour = thing
    return f"{colour} {KINDS[kind].word}"
