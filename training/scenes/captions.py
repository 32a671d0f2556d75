"""Random true captions of a scene, as people might phrase them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from training.scenes.backgrounds import Background
from training.scenes.objects.kinds import KINDS

OPENINGS = ("", "", "", "a photo of ", "a picture of ", "an image of ", "picture of ", "photo of ")
BESIDE = ("next to", "next to", "beside", "and")
HELD = {"in", "on"}
COLOUR_DROPPED, SIZE_SAID, PLACE_SAID, BACKGROUND_SAID, COUNT_SAID = 0.1, 0.5, 0.3, 0.3, 0.04


@dataclass(frozen=True)
class Facts:
    """Attributes of one object that a caption may mention."""

    kind: str
    colour: str
    size: str | None  # "small" or "large", where it is clearly one of them
    position: str | None  # "left", "top right", "centre" …, where it is clearly there


def write_caption(rng: Random, things: Sequence[Facts], relation: str | None, background: Background) -> str:
    """Write a caption. `relation` holds between the first thing and the second."""
    article = rng.random() < 0.55
    names = [name_thing(rng, thing, article=article) for thing in things]
    opening = rng.choice(OPENINGS)
    if len(things) == 1:
        if rng.random() < 0.06:
            word = KINDS[things[0].kind].word
            return f"{opening}{with_article(word) if article else word}, {things[0].colour}"
        phrase = names[0]
        if things[0].position and rng.random() < PLACE_SAID:
            return f"{opening}{phrase} {say_position(things[0].position)}"
    elif rng.random() < COUNT_SAID:
        number = {2: "two", 3: "three"}[len(things)]
        return f"{number} {rng.choice(('objects', 'things'))}: {list_names(names)}"
    else:
        phrase = relate(rng, names, relation)
    if rng.random() < BACKGROUND_SAID:
        phrase = f"{phrase} {describe_background(rng, background)}"
    return opening + phrase


def name_thing(rng: Random, thing: Facts, *, article: bool) -> str:
    """An object's name, optionally with its colour, its size and an article."""
    words = [KINDS[thing.kind].word]
    if rng.random() >= COLOUR_DROPPED:
        words.insert(0, thing.colour)
    if thing.size and rng.random() < SIZE_SAID:
        words.insert(0, rng.choice(("large", "big")) if thing.size == "large" else thing.size)
    name = " ".join(words)
    return with_article(name) if article else name


def with_article(name: str) -> str:
    """The name with its article, a or an."""
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def say_position(position: str) -> str:
    """The phrase for a position in the image."""
    return {"centre": "in the centre", "top": "at the top", "bottom": "at the bottom"}.get(
        position, f"on the {position}" if " " not in position else f"in the {position}"
    )


def list_names(names: Sequence[str]) -> str:
    """A, B and C."""
    return f"{', '.join(names[:-1])} and {names[-1]}"


def relate(rng: Random, names: Sequence[str], relation: str | None) -> str:
    """Phrase the spatial relation of two or three objects."""
    first, second = names[0], names[1]
    if relation in ("left of", "right of"):
        if len(names) == 3:
            return list_names(names)
        here, there = ("left", "right") if relation == "left of" else ("right", "left")
        plain = f"{first} {rng.choice(BESIDE)} {second}"
        sided = (f"{first} {relation} {second}", f"{first} to the {relation} {second}", f"{second} {there} of {first}",
                 f"{first} on the {here} and {second} on the {there}")  # fmt: skip
        return plain if rng.random() < 0.5 else rng.choice(sided)
    phrase = f"{first} {relation} {second}"
    if rng.random() < 0.2 and len(names) == 2:
        if relation in HELD:
            phrase = f"{second} with {first} {relation} it"
        elif relation == "under":
            phrase = f"{second} above {first}" if rng.random() < 0.5 else phrase
        else:
            phrase = f"{second} behind {first}"
    return f"{phrase} next to {names[2]}" if len(names) == 3 else phrase


def describe_background(rng: Random, background: Background) -> str:
    """Phrase the background."""
    pattern = background.pattern
    if pattern == "outdoors":
        return pattern
    if pattern == "indoors":
        return f"in front of {with_article(background.colour)} wall"
    if pattern in ("stripes", "checks"):
        adjective = {"stripes": "striped", "checks": "checked"}[pattern]
        return f"on a {adjective} background"
    phrases = (
        f"on {with_article(background.colour)} background",
        f"in front of {with_article(background.colour)} background",
    )
    return phrases[0] if rng.random() < 0.8 else phrases[1]
