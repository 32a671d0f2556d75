"""The canvas for drawing one object: at twice the image's resolution, in the object's own coordinates.

An object is centred at (0, 0), x to the right, y down, with a half-length of about 1 along its longer side. The canvas
holds premultiplied RGBA, so that drawing an opaque shape with soft edges blends colour and alpha in one operation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

RGB = tuple[int, int, int]
Point = tuple[float, float]
Tile = npt.NDArray[np.uint8]  # (n, n, 4), premultiplied RGBA

SUPERSAMPLING = 2
REACH = 1.3  # extent of the canvas, in units of the object: room for rotation and jitter
FRACTION_BITS = 4  # cv2's fixed-point coordinates
STEPS = 6  # straight pieces per control point of a curve

WHITE: RGB = (248, 248, 246)
CREAM: RGB = (240, 225, 190)
SILVER: RGB = (190, 194, 200)
INK: RGB = (34, 34, 38)
STEEL: RGB = (92, 96, 104)
GLASS: RGB = (165, 212, 238)
WOOD: RGB = (122, 78, 42)
LEAF: RGB = (62, 140, 52)
GOLD: RGB = (240, 195, 60)

CIRCLE = np.array([(math.cos(math.tau * i / 44), math.sin(math.tau * i / 44)) for i in range(44)])


def catmull_rom(steps: int) -> npt.NDArray[np.float64]:
    """Weights of four neighbouring control points along the piece between the middle two, (steps, 4)."""
    t = np.arange(steps)[:, None] / steps
    return np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]) / 2


WEIGHTS = catmull_rom(STEPS)


@dataclass(frozen=True)
class Spot:
    """A place on an object for another one, in pixels of its tile."""

    x: float  # middle
    y: float  # position of the other object's lowest point, or the rim over which it must be visible
    width: float
    height: float
    depth: float = 0  # how far below the rim there is room


def tone(rgb: RGB, amount: float) -> RGB:
    """Mix a colour with white (amount > 0) or with black (amount < 0)."""
    target = 255 if amount > 0 else 0
    red, green, blue = (round(c + (target - c) * abs(amount)) for c in rgb)
    return red, green, blue


def distance(a: RGB, b: RGB) -> float:
    """Approximate perceptual distance of two colours: Euclidean in RGB, 0 to 441."""
    return math.dist(a, b)


class Pen:
    """Draws in the colour of an object, rotated and mirrored, with light from one side."""

    def __init__(self, rng: Random, colour: RGB, unit_px: float, tilt_deg: float, mirror: bool, light: int) -> None:
        """Take a clean canvas.

        Args:
            rng: source of every variation of shape.
            colour: the thing's main colour.
            unit_px: length of the thing's unit in pixels of the picture.
            tilt_deg: rotation, clockwise.
            mirror: whether left and right are swapped.
            light: -1 for light from the left of the picture, 1 from its right.
        """
        self.rng = rng
        self.colour = colour
        side = 2 * math.ceil(unit_px * REACH)
        self.back: Tile = np.zeros((side * SUPERSAMPLING, side * SUPERSAMPLING, 4), np.uint8)
        self.front: Tile | None = None
        self._canvas: Any = self.back
        self._scale = unit_px * SUPERSAMPLING
        self._centre = side * SUPERSAMPLING / 2
        flip = -1.0 if mirror else 1.0
        cos, sin = math.cos(math.radians(tilt_deg)), math.sin(math.radians(tilt_deg))
        self._turn = np.array([[flip * cos, flip * sin], [-sin, cos]]) * self._scale
        self.light = light * flip
        self.rest: Spot | None = None  # where things can be put on it or in it
        self.below: Spot | None = None  # where things can stand under it

    @property
    def ink(self) -> RGB:
        """A tone of the main colour for visible lines on it."""
        return tone(self.colour, -0.45) if sum(self.colour) > 240 else tone(self.colour, 0.4)

    def pick(self, *choices: RGB) -> RGB:
        """The first of some colours that stands out from the main colour."""
        return next((c for c in choices if distance(c, self.colour) > 110), choices[-1])

    def vary(self, value: float, share: float = 0.08) -> float:
        """A value within ± share of the given."""
        return value * (1 + share * (2 * self.rng.random() - 1))

    def to_front(self) -> None:
        """Draw from here on the parts in front of contained objects."""
        self.front = np.zeros_like(self.back)
        self._canvas = self.front

    def offer_rest(self, x: float, y: float, width: float, height: float, depth: float = 0) -> None:
        """Offer a place on this object, or in it to a depth."""
        self.rest = self._spot(x, y, width, height, depth)

    def offer_below(self, x: float, y: float, width: float, height: float) -> None:
        """Offer a place under this object."""
        self.below = self._spot(x, y, width, height)

    def polygon(self, points: Sequence[Point], colour: RGB | None = None) -> None:
        """Fill a polygon."""
        self._fill(np.array(points), colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: RGB | None = None) -> None:
        """Fill a rectangle."""
        self._fill(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), colour)

    def pill(self, left: float, top: float, right: float, bottom: float, r: float, colour: RGB | None = None) -> None:
        """Fill a rectangle with round corners."""
        inner = np.array([[right - r, bottom - r], [left + r, bottom - r], [left + r, top + r], [right - r, top + r]])
        self._fill(np.repeat(inner, 11, axis=0) + CIRCLE * r, colour)

    def disc(self, x: float, y: float, rx: float, ry: float | None = None, colour: RGB | None = None) -> None:
        """Fill an ellipse whose axes are upright; a circle without `ry`."""
        self._fill(CIRCLE * (rx, rx if ry is None else ry) + (x, y), colour)

    def smooth(self, points: Sequence[Point], colour: RGB | None = None) -> None:
        """Fill a closed curve through points."""
        self._fill(closed_curve(points), colour)

    def leaf(self, x: float, y: float, tip_x: float, tip_y: float, width: float, colour: RGB = LEAF) -> None:
        """Fill a leaf or petal from (x, y) to its tip."""
        dx, dy = (tip_x - x) / 2, (tip_y - y) / 2
        side = width / max(math.hypot(dx, dy), 1e-6) / 2
        nx, ny = -dy * side, dx * side
        self._fill(
            closed_curve([(x, y), (x + dx + nx, y + dy + ny), (tip_x, tip_y), (x + dx - nx, y + dy - ny)]), colour
        )

    def erase(self, points: Sequence[Point]) -> None:
        """Erase a polygon from everything drawn so far."""
        cv2.fillPoly(self._canvas, [self._fixed(np.array(points))], (0, 0, 0, 0), cv2.LINE_AA, FRACTION_BITS)

    def line(self, points: Sequence[Point], width: float, colour: RGB | None = None) -> None:
        """Draw straight lines with round joints."""
        self._stroke(np.array(points), width, colour, closed=False)

    def curve(self, points: Sequence[Point], width: float, colour: RGB | None = None) -> None:
        """Draw an open curve through points."""
        self._stroke(open_curve(points), width, colour, closed=False)

    def ring(self, x: float, y: float, r: float, width: float, colour: RGB | None = None) -> None:
        """Draw a circle's outline."""
        self._stroke(CIRCLE * r + (x, y), width, colour, closed=True)

    def body(self, points: Sequence[Point], colour: RGB | None = None, gloss: float = 0.35) -> None:
        """Fill a closed curve as a rounded body: dark away from the light, with a highlight towards it."""
        self._solid(closed_curve(points), self.colour if colour is None else colour, gloss)

    def ball(
        self, x: float, y: float, rx: float, ry: float | None = None, colour: RGB | None = None, gloss: float = 0.35
    ) -> None:
        """Fill an ellipse as a rounded body."""
        outline = CIRCLE * (rx, rx if ry is None else ry) + (x, y)
        self._solid(outline, self.colour if colour is None else colour, gloss)

    def _solid(self, outline: npt.NDArray[np.float64], colour: RGB, gloss: float) -> None:
        self._fill(outline, tone(colour, -0.25))
        low, high = outline.min(0), outline.max(0)
        middle, extent = (low + high) / 2, (high - low) / 2
        towards_light = np.array([self.light, -1.0]) * extent
        self._fill((outline - middle) * 0.9 + middle + towards_light * (0.07, 0.05), colour)
        if gloss:
            self._fill(CIRCLE * extent * (0.15, 0.19) + middle + towards_light * 0.42, tone(colour, gloss))

    def _spot(self, x: float, y: float, width: float, height: float, depth: float = 0) -> Spot:
        px, py = (self._place(np.array([(x, y)]))[0] / SUPERSAMPLING).tolist()
        unit_px = self._scale / SUPERSAMPLING
        return Spot(px, py, width * unit_px, height * unit_px, depth * unit_px)

    def _place(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        placed: npt.NDArray[np.float64] = points @ self._turn + self._centre
        return placed

    def _fixed(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
        return np.rint(self._place(points) * (1 << FRACTION_BITS)).astype(np.int32)

    def _fill(self, points: npt.NDArray[np.float64], colour: RGB | None) -> None:
        rgba = (*(self.colour if colour is None else colour), 255)
        cv2.fillPoly(self._canvas, [self._fixed(points)], rgba, cv2.LINE_AA, FRACTION_BITS)

    def _stroke(self, points: npt.NDArray[np.float64], width: float, colour: RGB | None, *, closed: bool) -> None:
        rgba = (*(self.colour if colour is None else colour), 255)
        thickness = max(1, round(width * self._scale))
        cv2.polylines(self._canvas, [self._fixed(points)], closed, rgba, thickness, cv2.LINE_AA, FRACTION_BITS)


def closed_curve(points: Sequence[Point]) -> npt.NDArray[np.float64]:
    """A closed Catmull-Rom curve through points, (len(points) * STEPS, 2)."""
    p = np.array(points)
    groups = np.stack([np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)], 1)  # (n, 4, 2)
    curve: npt.NDArray[np.float64] = (WEIGHTS @ groups).reshape(-1, 2)
    return curve


def open_curve(points: Sequence[Point]) -> npt.NDArray[np.float64]:
    """A Catmull-Rom curve from the first point to the last."""
    p = np.array([points[0], *points, points[-1]])
    groups = np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], 1)
    return np.vstack([(WEIGHTS @ groups).reshape(-1, 2), p[-1:]])
