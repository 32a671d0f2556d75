"""The kinds, the colours, and the drawing of one object on its own tile.

Kinds have CIFAR-100's names. The layout of an image is defined in `training.scenes.render`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import cv2
import numpy as np

from training.scenes.canvas import RGB, SUPERSAMPLING, Pen, Spot, Tile
from training.scenes.objects import animals, food, household, outdoors, plants, vehicles, vessels

COLOURS: dict[str, RGB] = {
    "red": (212, 38, 38),
    "orange": (244, 132, 22),
    "yellow": (248, 214, 40),
    "green": (56, 162, 60),
    "blue": (42, 92, 214),
    "purple": (128, 58, 180),
    "pink": (248, 142, 186),
    "brown": (124, 76, 38),
    "black": (36, 36, 40),
    "white": (244, 244, 242),
    "gray": (138, 141, 146),
}
BRIGHTNESS_JITTER, HUE_JITTER = 10, 4  # either way: of all channels together, and of each
SHADE = 46  # of 256: how much darker a thing is on the side away from the light


@dataclass(frozen=True)
class Kind:
    """Attributes of a kind of object."""

    word: str  # its word in captions
    draw: Callable[[Pen], None]
    width: float  # half of it, in the thing's units
    height: float  # half of it
    stands: bool = True  # on the ground; else it flies or swims
    tilt_deg: float = 4.0  # at most, either way


KINDS: dict[str, Kind] = {
    "apple": Kind("apple", food.draw_apple, 1.0, 1.0, tilt_deg=12),
    "aquarium_fish": Kind("fish", animals.draw_aquarium_fish, 1.0, 0.8, stands=False, tilt_deg=14),
    "bed": Kind("bed", household.draw_bed, 1.03, 0.65),
    "bicycle": Kind("bicycle", vehicles.draw_bicycle, 1.02, 0.75),
    "bottle": Kind("bottle", vessels.draw_bottle, 0.4, 1.0, tilt_deg=7),
    "bowl": Kind("bowl", vessels.draw_bowl, 1.0, 0.6),
    "bridge": Kind("bridge", outdoors.draw_bridge, 1.08, 0.75, tilt_deg=2),
    "bus": Kind("bus", vehicles.draw_bus, 1.0, 0.6),
    "butterfly": Kind("butterfly", animals.draw_butterfly, 1.0, 0.95, stands=False, tilt_deg=25),
    "can": Kind("can", vessels.draw_can, 0.6, 1.0, tilt_deg=7),
    "castle": Kind("castle", outdoors.draw_castle, 1.02, 1.05, tilt_deg=2),
    "caterpillar": Kind("caterpillar", animals.draw_caterpillar, 1.1, 0.6),
    "chair": Kind("chair", household.draw_chair, 0.7, 1.02),
    "clock": Kind("clock", household.draw_clock, 0.85, 1.0),
    "cloud": Kind("cloud", outdoors.draw_cloud, 0.96, 0.55, stands=False, tilt_deg=3),
    "couch": Kind("couch", household.draw_couch, 1.02, 0.6),
    "crab": Kind("crab", animals.draw_crab, 1.0, 0.85, tilt_deg=8),
    "cup": Kind("cup", vessels.draw_cup, 1.02, 0.9),
    "house": Kind("house", outdoors.draw_house, 1.0, 0.98, tilt_deg=2),
    "keyboard": Kind("keyboard", household.draw_keyboard, 1.0, 0.45, tilt_deg=8),
    "lamp": Kind("lamp", household.draw_lamp, 0.75, 1.0),
    "mountain": Kind("mountain", outdoors.draw_mountain, 1.08, 0.78, tilt_deg=2),
    "mushroom": Kind("mushroom", food.draw_mushroom, 0.97, 1.0, tilt_deg=8),
    "oak_tree": Kind("oak tree", plants.draw_oak_tree, 0.92, 1.02),
    "orange": Kind("orange", food.draw_orange, 1.0, 1.0, tilt_deg=12),
    "palm_tree": Kind("palm tree", plants.draw_palm_tree, 0.92, 1.05),
    "pear": Kind("pear", food.draw_pear, 0.75, 1.1, tilt_deg=12),
    "pickup_truck": Kind("pickup truck", vehicles.draw_pickup_truck, 1.02, 0.62),
    "pine_tree": Kind("pine tree", plants.draw_pine_tree, 0.8, 1.0),
    "plate": Kind("plate", vessels.draw_plate, 1.0, 0.58),
    "rabbit": Kind("rabbit", animals.draw_rabbit, 0.95, 1.02),
    "rocket": Kind("rocket", vehicles.draw_rocket, 0.68, 1.08, stands=False, tilt_deg=22),
    "rose": Kind("rose", plants.draw_rose, 0.6, 1.02, tilt_deg=8),
    "skyscraper": Kind("skyscraper", outdoors.draw_skyscraper, 0.38, 1.06, tilt_deg=1),
    "snail": Kind("snail", animals.draw_snail, 1.04, 0.75),
    "snake": Kind("snake", animals.draw_snake, 1.08, 0.8, tilt_deg=8),
    "spider": Kind("spider", animals.draw_spider, 0.92, 0.95, tilt_deg=15),
    "sunflower": Kind("sunflower", plants.draw_sunflower, 0.68, 1.04, tilt_deg=8),
    "sweet_pepper": Kind("pepper", food.draw_sweet_pepper, 0.85, 1.02, tilt_deg=10),
    "table": Kind("table", household.draw_table, 1.02, 0.65),
    "tank": Kind("tank", vehicles.draw_tank, 1.08, 0.62),
    "telephone": Kind("telephone", household.draw_telephone, 1.02, 0.8),
    "television": Kind("television", household.draw_television, 1.0, 0.98),
    "tractor": Kind("tractor", vehicles.draw_tractor, 1.05, 0.97),
    "train": Kind("train", vehicles.draw_train, 1.1, 0.92),
    "tulip": Kind("tulip", plants.draw_tulip, 0.5, 1.05, tilt_deg=8),
    "turtle": Kind("turtle", animals.draw_turtle, 1.08, 0.78),
    "wardrobe": Kind("wardrobe", household.draw_wardrobe, 0.75, 1.02, tilt_deg=2),
    "whale": Kind("whale", animals.draw_whale, 1.05, 0.85, stands=False, tilt_deg=8),
}


@dataclass(frozen=True)
class Drawing:
    """An object on its own tile, before it is placed in an image."""

    kind: str
    colour: str
    rgb: RGB  # the sampled shade of the colour
    back: Tile
    front: Tile | None  # the part in front of contained objects
    bounds: tuple[int, int, int, int]  # left, top, right, bottom of what is at least half opaque
    rest: Spot | None
    below: Spot | None


def mix_colour(rng: Random, colour: str) -> RGB:
    """A random shade of a named colour. Takes four numbers from `rng` for any colour."""
    lift = BRIGHTNESS_JITTER * (2 * rng.random() - 1)
    shifts = [lift + HUE_JITTER * (2 * rng.random() - 1) for _ in range(3)]
    red, green, blue = (min(255, max(0, round(c + shift))) for c, shift in zip(COLOURS[colour], shifts, strict=True))
    return red, green, blue


def draw_thing(kind: str, colour: str, unit_px: float, rng: Random, light: int = -1) -> Drawing:
    """Draw one object.

    Args:
        kind: a key of `KINDS`.
        colour: a key of `COLOURS`. It doesn't affect shapes: these come from `rng`.
        unit_px: half of the thing's longer side, in pixels, or nearly.
        rng: the number of values consumed depends on the kind.
        light: -1 for light from the left, 1 from the right.
    """
    known = KINDS[kind]
    rgb = mix_colour(rng, colour)
    tilt_deg = known.tilt_deg * (2 * rng.random() - 1)
    pen = Pen(rng, rgb, unit_px, tilt_deg, mirror=rng.random() < 0.5, light=light)
    known.draw(pen)
    back = finish(pen.back, light)
    front = None if pen.front is None else finish(pen.front, light)
    opaque: Any = back[..., 3] >= 128
    if front is not None:
        opaque |= front[..., 3] >= 128
    x, y, width, height = cv2.boundingRect(opaque.astype(np.uint8))
    return Drawing(kind, colour, rgb, back, front, (x, y, x + width, y + height), pen.rest, pen.below)


def finish(canvas: Tile, light: int) -> Tile:
    """Scale a canvas down to the image's pixels and darken the side away from the light."""
    side = canvas.shape[0] // SUPERSAMPLING
    tile: Any = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    slope = np.linspace(-1, 1, side)
    dark = SHADE * np.clip(0.5 - 0.42 * light * slope[None, :] + 0.22 * slope[:, None], 0, 1)
    keep = (256 - np.rint(dark)).astype(np.uint16)[..., None]
    tile[..., :3] = (tile[..., :3] * keep) >> 8
    shaded: Tile = tile
    return shaded


def unit_for(kind: str, width_px: float, height_px: float) -> float:
    """The largest unit at which a kind fits into a space."""
    known = KINDS[kind]
    return min(width_px / known.width, height_px / known.height) / 2
