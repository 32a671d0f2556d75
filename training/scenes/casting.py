"""Selection of the objects of a random scene and of their relation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from random import Random

from training.scenes.backgrounds import stands_out
from training.scenes.objects.kinds import COLOURS, KINDS
from training.scenes.splits import Combination, Split, list_colours

FRUIT = frozenset({"apple", "pear", "orange", "sweet_pepper", "mushroom"})
PETS = frozenset({"crab", "snail", "turtle", "caterpillar", "rabbit"})
FLOWERS = frozenset({"rose", "tulip", "sunflower"})
VESSELS = frozenset({"plate", "bowl", "cup", "bottle", "can"})
DEVICES = frozenset({"clock", "lamp", "telephone", "television", "keyboard"})
OUTDOORS = frozenset({"house", "castle", "mountain", "oak_tree", "pine_tree", "palm_tree", "bridge"}) | frozenset(
    {"tractor", "bus", "train", "bicycle", "pickup_truck", "tank"}
)

# For each relation: its frequency, and the kinds allowed as first and second object.
ROLES: tuple[tuple[str, int, frozenset[str], frozenset[str]], ...] = (
    ("in", 17, FRUIT | PETS | {"aquarium_fish"}, frozenset({"plate", "bowl", "cup"})),
    ("in", 4, FLOWERS, frozenset({"cup"})),
    ("on", 15, FRUIT | PETS | VESSELS | DEVICES, frozenset({"table", "chair", "couch", "bed"})),
    ("under", 6, FRUIT | PETS | VESSELS | DEVICES | {"chair"}, frozenset({"table"})),
    ("under", 5, OUTDOORS, frozenset({"cloud"})),
    ("in front of", 12, frozenset(KINDS), frozenset(KINDS) - FLOWERS - {"bicycle", "keyboard", "cloud"}),
    ("left of", 21, frozenset(KINDS), frozenset(KINDS)),
    ("right of", 21, frozenset(KINDS), frozenset(KINDS)),
)
TRIES = 40

Pairs = list[tuple[str, str]]  # kind and colour


def cast_scene(
    rng: Random, num_things: int, kinds: Sequence[str], split: Split, combination: Combination
) -> tuple[Pairs, str | None]:
    """Choose kinds and colours, and the relation of the first to the second.

    Objects that may touch differ clearly in colour, if the kinds and the split allow it.

    Raises:
        ValueError: there are fewer kinds than things, or the split has no such combinations.
    """
    distinct = list(dict.fromkeys(kinds))
    if not 1 <= num_things <= min(3, len(distinct)):
        raise ValueError(f"can't draw {num_things} things of {len(distinct)} kinds")
    pairs: Pairs = []
    relation: str | None = None
    for _ in range(TRIES):
        names, relation = cast_kinds(rng, num_things, distinct)
        pairs = [(kind, rng.choice(list_colours(kind, split, combination))) for kind in names]
        if all(stands_out(COLOURS[a], COLOURS[b]) for (_, a), (_, b) in combinations(pairs, 2)):
            break
    return pairs, relation


def cast_kinds(rng: Random, num_things: int, kinds: Sequence[str]) -> tuple[list[str], str | None]:
    """Choose a relation, and kinds that it allows."""
    if num_things == 1:
        return [rng.choice(kinds)], None
    roles = [(relation, weight, firsts.intersection(kinds), seconds.intersection(kinds))
             for relation, weight, firsts, seconds in ROLES]  # fmt: skip
    possible = [role for role in roles if role[2] and role[3]]
    ((relation, _, firsts, seconds),) = rng.choices(possible, [role[1] for role in possible])
    second = rng.choice(sorted(seconds))  # a set's own order differs from process to process
    first = rng.choice(sorted(firsts - {second}))
    rest = [kind for kind in kinds if kind not in (first, second)]
    return [first, second, *rng.sample(rest, num_things - 2)], relation
