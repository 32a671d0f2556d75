"""Which combinations of kind and colour the training split never shows.

Every kind keeps one of the eleven colours back, so a tenth of all combinations, less a little, is held out. The colour
follows from a checksum of the kind's name alone: adding a kind moves no other's. The salt is one that spreads
the held-out colours evenly and leaves everyday pairs, such as a red apple, to the training split.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Literal

from training.things import COLOURS

Split = Literal["train", "test"]
Combination = Literal["any", "seen", "unseen"]

SALT = "132632"


@cache
def held_out_colour(kind: str) -> str:
    """The one colour in which training never sees a kind."""
    return list(COLOURS)[zlib.crc32(f"{SALT} {kind}".encode()) % len(COLOURS)]


def is_held_out(kind: str, colour: str) -> bool:
    """Whether training never sees a kind in a colour."""
    return held_out_colour(kind) == colour


def list_colours(kind: str, split: Split, combination: Combination) -> list[str]:
    """The colours a kind may have.

    Raises:
        ValueError: unseen combinations are asked of the training split.
    """
    if split == "train" and combination == "unseen":
        raise ValueError("the training split has no unseen combinations")
    if combination == "unseen":
        return [held_out_colour(kind)]
    if combination == "seen" or split == "train":
        return [colour for colour in COLOURS if not is_held_out(kind, colour)]
    return list(COLOURS)
