"""Scene backgrounds: plain, patterned, outdoors or indoors, and never in the colour of an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.records import Pixels
from training.scenes.canvas import RGB, distance, tone

CONTRAST = 75.0  # at least, between a background and a thing, in light or in shade (see `pen.distance`)

TINTS: tuple[tuple[str, RGB], ...] = (
    ("white", (244, 244, 244)), ("gray", (196, 198, 202)), ("gray", (104, 106, 112)), ("black", (34, 34, 38)),
    ("blue", (176, 208, 244)), ("blue", (74, 122, 206)), ("blue", (32, 46, 96)), ("green", (186, 222, 178)),
    ("green", (92, 162, 96)), ("green", (30, 82, 54)), ("yellow", (250, 236, 164)), ("pink", (250, 208, 222)),
    ("purple", (212, 192, 238)), ("purple", (84, 52, 118)), ("orange", (250, 196, 140)), ("beige", (228, 210, 180)),
    ("brown", (142, 102, 68)), ("red", (186, 52, 50)),
)  # fmt: skip
SKIES: tuple[RGB, ...] = ((170, 210, 245), (232, 236, 240), (250, 196, 160), (110, 160, 225), (30, 36, 76))
GROUNDS: tuple[RGB, ...] = (
    (112, 176, 88),
    (226, 206, 152),
    (150, 152, 154),
    (122, 90, 60),
    (236, 240, 246),
    (52, 96, 54),
)
PATTERNS = {"plain": 4, "gradient": 4, "stripes": 2, "checks": 2, "noise": 2, "outdoors": 4, "indoors": 3}


@dataclass(frozen=True)
class Background:
    """Attributes of a background."""

    pattern: str  # a key of PATTERNS
    colour: str  # the dominant colour, as a person would name it; empty outdoors
    upper: RGB  # the main colour: sky or wall, where there is a ground
    lower: RGB  # the pattern's second colour, the ground or the floor
    horizon: float  # where the ground begins, as a share of the height; 1 without ground


def stands_out(thing: RGB, background: RGB) -> bool:
    """Whether an object of one colour contrasts with another colour, in light and in shade."""
    return all(distance(tone(thing, -shade), background) >= CONTRAST for shade in (0.0, 0.12, 0.24))


def choose_background(rng: Random, colours: Sequence[RGB], horizon: float) -> Background:
    """Choose a background that contrasts with the objects.

    Args:
        rng: source of the choice.
        colours: the things' main colours.
        horizon: where the ground begins, if it turns out to have one.
    """

    def clear(*rgbs: RGB) -> bool:
        return all(stands_out(thing, rgb) for thing in colours for rgb in rgbs)

    (pattern,) = rng.choices(list(PATTERNS), list(PATTERNS.values()))
    tints = [(name, jitter(rng, rgb)) for name, rgb in rng.sample(TINTS, len(TINTS))]
    if pattern == "outdoors":
        pairs = [(jitter(rng, sky), jitter(rng, ground)) for sky in SKIES for ground in GROUNDS]
        pairs = [pair for pair in pairs if clear(*pair) and distance(*pair) > 60]
        if pairs:
            sky, ground = rng.choice(pairs)
            return Background(pattern, "", sky, ground, horizon)
    fitting = [(name, rgb) for name, rgb in tints if clear(rgb)]
    if not fitting:  # objects of very many colours: the best available
        fitting = [max(tints, key=lambda tint: min(distance(thing, tint[1]) for thing in colours))]
    name, upper = fitting[0]
    if pattern == "indoors":
        floor = next((rgb for _, rgb in fitting if distance(rgb, upper) > 50), None)
        if floor is not None:
            return Background(pattern, name, upper, floor, horizon)
    amount = rng.uniform(0.16, 0.3)
    seconds = [
        tone(upper, -amount if sum(upper) > 330 else amount),
        tone(upper, amount if sum(upper) > 330 else -amount),
    ]
    second = next((rgb for rgb in seconds if clear(rgb)), upper)
    plain = second == upper or pattern in ("outdoors", "indoors")
    return Background("plain" if plain else pattern, name, upper, upper if plain else second, 1.0)


def jitter(rng: Random, rgb: RGB) -> RGB:
    """A slightly varied colour."""
    red, green, blue = (min(255, max(0, c + int(rng.random() * 17) - 8)) for c in rgb)
    return red, green, blue


def paint_background(background: Background, rng: Random, side: int) -> Pixels:
    """Paint a background, (side, side, 3) uint8."""
    pattern, upper, lower = background.pattern, background.upper, background.lower
    if pattern == "stripes":
        return blend(upper, lower, stripe(rng, side))
    if pattern == "checks":
        step = side // rng.choice((5, 6, 8, 10))
        odd = (np.arange(side) + int(rng.random() * step)) // step & 1
        return blend(upper, lower, ((odd[:, None] ^ odd[None, :]) * 255).astype(np.uint8))
    if pattern == "noise":
        return blend(upper, lower, make_noise(rng, side, rng.choice((6, 12, 24))))
    if pattern == "gradient":
        return blend(upper, lower, make_slope(rng, side))
    if pattern == "plain":
        return np.full((side, side, 3), upper, np.uint8)
    row = round(background.horizon * side)
    image = blend(upper, tone(upper, 0.25), np.ascontiguousarray(np.broadcast_to(ramp(side)[:, None], (side, side))))
    cells = rng.choice((10, 20))
    image[row:] = blend(lower, tone(lower, -0.12), make_noise(rng, side, cells))[row:]
    return image


def blend(first: RGB, second: RGB, share: npt.NDArray[np.uint8]) -> Pixels:
    """Mix two colours by a map from 0 (all first) to 255 (all second)."""
    t = np.arange(256)[:, None]
    palette = ((np.array(first) * (255 - t) + np.array(second) * t + 127) // 255).astype(np.uint8)
    mixed: Pixels = palette[share]
    return mixed


@cache
def ramp(side: int) -> npt.NDArray[np.uint8]:
    """From 0 to 255 over a length."""
    return (np.arange(side) * 255 // (side - 1)).astype(np.uint8)


def make_slope(rng: Random, side: int) -> npt.NDArray[np.uint8]:
    """A map that rises along a direction."""
    across, down = rng.choice(((0, 2), (2, 0), (1, 1)))
    rising = ramp(side) if rng.random() < 0.5 else ramp(side)[::-1]
    slope: npt.NDArray[np.uint8] = ((across * rising[None, :].astype(np.uint16) + down * rising[:, None]) // 2).astype(
        np.uint8
    )
    return slope


def stripe(rng: Random, side: int) -> npt.NDArray[np.uint8]:
    """A map of soft-edged stripes, upright, level or slanted."""
    slant_x, slant_y = rng.choice(((4, 0), (0, 4), (3, 3), (3, -3)))
    number = rng.choice((5, 7, 9))
    line = np.arange(side, dtype=np.int32) * (65536 * number // (4 * side))
    phase = (slant_x * line[None, :] + slant_y * line[:, None] + int(rng.random() * 65536)) & 65535
    height = np.abs(phase - 32768) - 16384  # of a zigzag
    stripes: npt.NDArray[np.uint8] = np.clip(height * side // (256 * number) + 128, 0, 255).astype(np.uint8)
    return stripes


def make_noise(rng: Random, side: int, cells: int) -> npt.NDArray[np.uint8]:
    """A map of soft blotches."""
    grid: Any = np.frombuffer(rng.randbytes(cells * cells), np.uint8).reshape(cells, cells)
    blotches: npt.NDArray[np.uint8] = cv2.resize(grid, (side, side), interpolation=cv2.INTER_LINEAR_EXACT)
    return blotches
