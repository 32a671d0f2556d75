"""Combinations of kind and colour that are held out from the training split.

One of the eleven colours is held out for every kind, so almost a tenth of all combinations. The colour is derived from
a checksum of the kind's name only: adding a kind changes no other's. The salt was chosen to spread the held-out colours
evenly and to leave everyday pairs, such as a red apple, in the training split.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Literal

from training.scenes.objects.kinds import COLOURS

Split = Literal["train", "test"]
Combination = Literal["any", "seen", "unseen"]

SALT = "132632"


@cache
def held_out_colour(kind: str) -> str:
    """The held-out colour of a kind."""
    return list(COLOURS)[zlib.crc32(f"{SALT} {kind}".encode()) % len(COLOURS)]


def is_held_out(kind: str, colour: str) -> bool:
    """Whether the combination of a kind and a colour is held out."""
    return held_out_colour(kind) == colour


def list_colours(kind: str, split: Split, combination: Combination) -> list[str]:
    """The colours a kind may have.

    Raises:
        ValueError: held-out combinations are requested of the training split.
    """
    if split == "train" and combination == "unseen":
        raise ValueError("the training split has no unseen combinations")
    if combination == "unseen":
        return [held_out_colour(kind)]
    if combination == "seen" or split == "train":
        return [colour for colour in COLOURS if not is_held_out(kind, colour)]
    return list(COLOURS)
