"""Scenes drawn by code, with exact masks and true captions, for training and evaluation of the miniature models.

Drawing is deterministic: the same arguments give the same bytes on any machine, in any process and in any order of
calls. Training and test have disjoint seeds, and the training split never shows the combinations of kind and colour
that `training.scenes.splits` holds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import cv2
import numpy as np

from pipeline.records import Pixels
from training.scenes.backgrounds import Background, choose_background, paint_background
from training.scenes.canvas import RGB, Tile
from training.scenes.captions import Facts, write_caption
from training.scenes.casting import cast_scene
from training.scenes.layout import ALONE, RELATIONS, Order, Placed, arrange
from training.scenes.objects.kinds import COLOURS, KINDS
from training.scenes.splits import Combination, Split

SMALL, LARGE = 0.54, 0.74  # longer side as a share of the picture's, at most and at least
UNLIKE = 1.45  # of two things, how many times longer the large one is
CENTRED, ASIDE = 0.05, 0.09  # of the picture's side, how far from the middle at most and at least
SHADOW_ALPHA = 60  # of 255
NUM_THINGS = {1: 55, 2: 33, 3: 12}  # default frequencies


@dataclass(frozen=True)
class Thing:
    """One object in a scene. `size` and `position` are None if no word would be clearly true."""

    kind: str
    colour: str
    rgb: RGB  # its main colour, as mixed for this scene and before shading
    mask: Any  # (h, w) bool, read-only, the visible part
    full_area: int  # pixels it would show if nothing stood before it
    box: tuple[int, int, int, int]  # left, top, right, bottom (exclusive) of the visible part
    size: str | None  # "small", "large"
    position: str | None  # "left", "top right", "centre" …

    @property
    def area(self) -> int:
        """Visible pixels."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class Scene:
    """An image with its annotations."""

    pixels: Pixels  # (side, side, 3), read-only
    things: tuple[Thing, ...]  # front to back
    relation: str | None  # of the first thing to the second, one of layouts.RELATIONS
    caption: str
    background: Background

    @property
    def facts(self) -> list[Facts]:
        """What further captions may say (see `training.scenes.captions.write_caption`)."""
        return [Facts(t.kind, t.colour, t.size, t.position) for t in self.things]


def draw_scene(
    seed: int,
    side: int,
    *,
    split: Split = "train",
    num_things: int | None = None,
    kinds: Sequence[str] = tuple(KINDS),
    combination: Combination = "any",
) -> Scene:
    """Draw a random scene.

    Args:
        seed: of the scene.
        side: height and width in pixels.
        split: the two draw from different seeds.
        num_things: 1 to 3, or drawn.
        kinds: what may be in it.
        combination: whether all things, or none, have a colour that the training split holds out for their kind.

    Raises:
        ValueError: the arguments contradict each other.
    """
    rng = Random(f"{split} {seed}")
    if num_things is None:
        most = min(3, len(set(kinds)))
        numbers = [n for n in NUM_THINGS if n <= most]
        (num_things,) = rng.choices(numbers, [NUM_THINGS[n] for n in numbers])
    pairs, relation = cast_scene(rng, num_things, kinds, split, combination)
    return build(pairs, relation, rng, side)


def compose(
    things: Sequence[tuple[str, str]],
    relation: str | None = None,
    *,
    seed: int,
    side: int,
    background: Background | None = None,
) -> Scene:
    """Draw a specified scene.

    Args:
        things: one to three pairs of kind and colour; the colours don't affect shapes or positions.
        relation: of the first to the second, one of `layouts.RELATIONS` or "next to" (the default for two or three).
        seed: of everything unspecified.
        side: height and width in pixels.
        background: for example another scene's; contrasting with the objects if None.

    Raises:
        ValueError: a kind, colour or relation is unknown, or the second thing has no place for the first.
    """
    unknown = [
        word
        for kind, colour in things
        for word in (kind not in KINDS and kind, colour not in COLOURS and colour)
        if word
    ]
    if unknown or not 1 <= len(things) <= 3 or relation not in (None, "next to", *RELATIONS):
        raise ValueError(f"can't be drawn: {unknown or relation or things}")
    rng = Random(f"order {seed}")
    sided = rng.choice(("left of", "right of"))
    if len(things) == 1:
        relation = None
    elif relation in (None, "next to"):
        relation = sided
    return build(things, relation, rng, side, background)


def build(
    pairs: Sequence[tuple[str, str]],
    relation: str | None,
    rng: Random,
    side: int,
    background: Background | None = None,
    length: tuple[float, float] = ALONE,
) -> Scene:
    """Draw, place, paint and describe.

    Args:
        length: of the longer side of an only thing, at least and at most, as a share of the picture's.
    """
    light = rng.choice((-1, 1))
    orders = [Order(kind, colour, rng.getrandbits(64)) for kind, colour in pairs]
    placed = arrange(orders, relation, rng, side, light, length)
    behind = Random(rng.getrandbits(64))  # so that the background doesn't change the state of `rng`
    feet = [p.box[3] for p in placed if KINDS[p.drawing.kind].stands]
    horizon = min([0.72, *(foot / side - 0.08 for foot in feet)]) * behind.uniform(0.8, 1.0)
    chosen = background or choose_background(behind, [p.drawing.rgb for p in placed], max(horizon, 0.3))
    pixels = paint_background(chosen, Random(rng.getrandbits(64)), side)
    owners, full_areas = paint_things(pixels, placed, relation)
    things = describe(placed, owners, full_areas)
    facts = [Facts(t.kind, t.colour, t.size, t.position) for t in things]
    pixels.flags.writeable = False
    return Scene(pixels, things, relation, write_caption(rng, facts, relation, chosen), chosen)


def paint_things(pixels: Pixels, placed: Sequence[Placed], relation: str | None) -> tuple[Any, list[int]]:
    """Paint things back to front.

    Returns:
        (h, w) int8, which thing each pixel belongs to, -1 for none; and the area of each without the others.
    """
    owners = np.full(pixels.shape[:2], -1, np.int8)
    for p in placed:
        if p.grounded:
            throw_shadow(pixels, p)
    full_areas = [0] * len(placed)
    for i in reversed(range(len(placed))):
        p, front = placed[i], placed[i].drawing.front
        full_areas[i] = count_opaque(p)
        paint(pixels, owners, p.drawing.back, p, i)
        if front is not None and not (relation in ("in", "on") and i == 1):
            paint(pixels, owners, front, p, i)
        if relation in ("in", "on") and i == 0 and placed[1].drawing.front is not None:
            paint(pixels, owners, placed[1].drawing.front, placed[1], 1)
    return owners, full_areas


def count_opaque(placed: Placed) -> int:
    """Pixels of a drawing that are at least half opaque."""
    opaque = placed.drawing.back[..., 3] >= 128
    if placed.drawing.front is not None:
        opaque |= placed.drawing.front[..., 3] >= 128
    return int(opaque.sum())


def throw_shadow(pixels: Pixels, placed: Placed) -> None:
    """Darken the ground under a thing."""
    left, _, right, bottom = placed.box
    width, depth = right - left, max(2, (right - left) // 16)
    tile = np.zeros((2 * depth + 1, width, 4), np.uint8)
    cv2.ellipse(
        tile, (width // 2, depth), (width // 2, depth), 0, 0, 360, (0, 0, 0, SHADOW_ALPHA), cv2.FILLED, cv2.LINE_AA
    )
    blend_tile(pixels, tile, left, bottom - depth - 1)


def paint(pixels: Pixels, owners: Any, tile: Tile, placed: Placed, index: int) -> None:
    """Blend a tile into the picture and note whose its pixels are."""
    left, top, right, bottom = placed.drawing.bounds
    edge = 1  # soft pixels just outside of the bounds
    x, y = max(0, left - edge), max(0, top - edge)
    tile = tile[y : bottom + edge, x : right + edge]
    alpha, (rows, columns) = blend_tile(pixels, tile, placed.x + x, placed.y + y)
    owners[rows, columns][alpha >= 128] = index


def blend_tile(pixels: Pixels, tile: Tile, x: int, y: int) -> tuple[Any, tuple[slice, slice]]:
    """Blend premultiplied RGBA into the picture at a corner; what lies outside is cut off.

    Returns:
        the alpha that was used, (h, w) uint8, and the rows and columns of the picture that it covers.
    """
    height, width = pixels.shape[:2]
    tile = tile[max(0, -y) : height - y, max(0, -x) : width - x]
    rows, columns = slice(max(0, y), max(0, y) + tile.shape[0]), slice(max(0, x), max(0, x) + tile.shape[1])
    alpha = tile[..., 3]
    keep = 256 - alpha.astype(np.uint16) - (alpha >> 7)  # 256 for none, 0 for opaque
    under = (pixels[rows, columns] * keep[..., None]) >> 8
    pixels[rows, columns] = np.minimum(under + tile[..., :3], 255)
    return alpha, (rows, columns)


def describe(placed: Sequence[Placed], owners: Any, full_areas: Sequence[int]) -> tuple[Thing, ...]:
    """The annotations of each object."""
    side = owners.shape[0]
    lengths = [max(p.box[2] - p.box[0], p.box[3] - p.box[1]) for p in placed]
    things = []
    for i, p in enumerate(placed):
        mask = owners == i
        mask.flags.writeable = False
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        others = [length for k, length in enumerate(lengths) if k != i]
        things.append(
            Thing(
                p.drawing.kind, p.drawing.colour, p.drawing.rgb, mask, full_areas[i], (x, y, x + width, y + height),
                say_size(lengths[i], others, side), say_position(p.box, side),
            )
        )  # fmt: skip
    return tuple(things)


def say_size(length: int, others: Sequence[int], side: int) -> str | None:
    """The word for a single object's size in the image, or for its size relative to others."""
    if not others:
        return "small" if length < SMALL * side else "large" if length > LARGE * side else None
    if all(length * UNLIKE < other for other in others):
        return "small"
    return "large" if all(length > other * UNLIKE for other in others) else None


def say_position(box: tuple[int, int, int, int], side: int) -> str | None:
    """The word for where a thing is."""
    x, y = (box[0] + box[2]) / 2 / side - 0.5, (box[1] + box[3]) / 2 / side - 0.5
    if max(abs(x), abs(y)) <= CENTRED:
        return "centre"
    across = "left" if x < -ASIDE else "right" if x > ASIDE else ""
    down = "top" if y < -ASIDE else "bottom" if y > ASIDE else ""
    unclear = (not across and abs(x) > CENTRED) or (not down and abs(y) > CENTRED)
    return None if unclear else f"{down} {across}".strip() or None
