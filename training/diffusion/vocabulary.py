"""The training vocabulary of the miniature models: `python -m training.diffusion.vocabulary` prints it for a profile.

Captions combine few words in many ways, so a few thousand captions contain all of them.
"""

from __future__ import annotations

import textwrap
from random import Random

from pipeline.vocabulary import split_words
from training.scenes.backgrounds import choose_background
from training.scenes.captions import Facts, write_caption
from training.scenes.casting import cast_scene
from training.scenes.objects.kinds import COLOURS, KINDS

CAPTIONS = 4_000
SIZES = (None, "small", "large")
POSITIONS = (None, "centre", "top", "bottom", "left", "right", "top left", "top right", "bottom left", "bottom right")
WIDTH = 112  # characters of a line of YAML, without its indent


def list_words(captions: int = CAPTIONS) -> tuple[str, ...]:
    """List all words of captions, kinds and colours, in alphabetical order."""
    rng = Random("vocabulary")
    texts = [*COLOURS, *(kind.word for kind in KINDS.values()), *(draw_caption(rng) for _ in range(captions))]
    return tuple(sorted({word for text in texts for word in split_words(text)}))


def draw_caption(rng: Random) -> str:
    """Write the caption of a scene without drawing it."""
    pairs, relation = cast_scene(rng, rng.randint(1, 3), tuple(KINDS), "train", "any")
    things = [Facts(kind, colour, rng.choice(SIZES), rng.choice(POSITIONS)) for kind, colour in pairs]
    background = choose_background(rng, [COLOURS[colour] for _, colour in pairs], horizon=0.7)
    return write_caption(rng, things, relation, background)


def write_yaml(words: tuple[str, ...]) -> str:
    """Write words as the setting `diffusion.vocabulary`; those that YAML parses as booleans are quoted."""
    quoted = [f'"{word}"' if word in ("on", "off", "yes", "no", "y", "n") else word for word in words]
    lines = textwrap.wrap(", ".join(quoted) + ",", WIDTH, break_on_hyphens=False)
    return "\n".join(["  vocabulary: [", *(f"    {line}" for line in lines), "  ]"])


if __name__ == "__main__":
    print(write_yaml(list_words()))
