"""Layout of a scene's objects, so that its caption is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from training.scenes.objects.kinds import KINDS, Drawing, draw_thing, unit_for

RELATIONS = ("in", "on", "under", "in front of", "left of", "right of")
GROUND = (0.84, 0.96)  # where things stand, as a share of the height
MOST_HIDDEN = 0.42  # of the height of what is in a bowl or a cup
ALONE = (0.46, 0.83)  # longer side of a single object, as a share of the image's


@dataclass(frozen=True)
class Order:
    """One object to be drawn."""

    kind: str
    colour: str
    seed: int  # of its shape and of the shade of its colour

    def draw(self, width_px: float, height_px: float, light: int) -> Drawing:
        """Draw it to fit into a space."""
        return draw_thing(self.kind, self.colour, unit_for(self.kind, width_px, height_px), Random(self.seed), light)


@dataclass(frozen=True)
class Placed:
    """A drawing with its tile's corner in the image."""

    drawing: Drawing
    x: int
    y: int
    grounded: bool = True  # it stands on the ground and throws a shadow there

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in the picture's pixels."""
        left, top, right, bottom = self.drawing.bounds
        return self.x + left, self.y + top, self.x + right, self.y + bottom


@dataclass(frozen=True)
class Frame:
    """The part of an image available to objects: its whole height, from one column to another."""

    left: float
    right: float
    side: int  # of the picture

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2


def place(drawing: Drawing, x: float, bottom: float, side: int, *, grounded: bool = True) -> Placed:
    """Place a drawing by its centre and lowest pixel, or as near as the image's borders allow."""
    left, top, right, low = drawing.bounds
    corner_x = min(max(round(x - (left + right) / 2), -left), side - right)
    corner_y = min(max(round(bottom) - low, -top), side - low)
    return Placed(drawing, corner_x, corner_y, grounded and KINDS[drawing.kind].stands)


def arrange(
    orders: Sequence[Order],
    relation: str | None,
    rng: Random,
    side: int,
    light: int,
    length: tuple[float, float] = ALONE,
) -> list[Placed]:
    """Draw and place one to three objects, the first in the relation to the second, the third next to them.

    Args:
        length: minimum and maximum of the longer side of a single object, as a share of the image's.

    Raises:
        ValueError: the second offers no place for the relation.
    """
    frame = Frame(0.02 * side, 0.98 * side, side)
    if len(orders) == 1 or relation is None:
        return [place_alone(orders[0], rng, side, light, length)]
    if relation in ("left of", "right of"):
        return place_in_row(orders, relation, rng, frame, light)
    third: list[Placed] = []
    if len(orders) == 3:
        cut = rng.uniform(0.62, 0.68)
        frame, rest = Frame(frame.left, cut * side, side), Frame(cut * side, frame.right, side)
        if rng.random() < 0.5:
            frame, rest = (
                Frame(side - frame.right, side - frame.left, side),
                Frame(side - rest.right, side - rest.left, side),
            )
        third = [place_on_ground(orders[2], rng, rest, light)]
    pairs = {"in": place_held, "on": place_held, "under": place_under, "in front of": place_before}
    return [*pairs[relation](orders[0], orders[1], rng, frame, light), *third]


def place_alone(order: Order, rng: Random, side: int, light: int, length: tuple[float, float]) -> Placed:
    """Place a single object, drawn large, anywhere it fits."""
    size = rng.uniform(*length) * side
    drawing = order.draw(size, size, light)
    left, top, right, bottom = drawing.bounds
    reach_x, reach_y = (side - (right - left)) / 2, (side - (bottom - top)) / 2
    x = side / 2 + pull(rng) * reach_x
    return place(drawing, x, side / 2 + (bottom - top) / 2 + pull(rng) * reach_y, side)


def pull(rng: Random) -> float:
    """Random offset from the centre, from -1 to 1, concentrated near 0."""
    return 0.9 * (rng.random() + rng.random() - 1)


def place_on_ground(order: Order, rng: Random, frame: Frame, light: int) -> Placed:
    """Place an object in a frame, on the ground if its kind stands."""
    drawing = order.draw(frame.width * rng.uniform(0.86, 1.0), frame.side * rng.uniform(0.6, 0.85), light)
    low = rng.uniform(*GROUND) if KINDS[order.kind].stands else rng.uniform(0.5, 0.9)
    return place(drawing, frame.middle, low * frame.side, frame.side)


def place_in_row(orders: Sequence[Order], relation: str, rng: Random, frame: Frame, light: int) -> list[Placed]:
    """Place objects side by side, sometimes partly overlapping."""
    share = frame.width / len(orders)
    closer = rng.uniform(0.1, 0.22) * share if rng.random() < 0.35 else 0.0
    row = []
    for i, order in enumerate(orders):
        left = frame.left + i * share
        row.append(place_on_ground(order, rng, Frame(left - closer, left + share + closer, frame.side), light))
    if relation == "left of":
        return row
    return [place(p.drawing, frame.side - (p.box[0] + p.box[2]) / 2, p.box[3], frame.side) for p in row]


def place_held(subject: Order, holder: Order, rng: Random, frame: Frame, light: int) -> list[Placed]:
    """Place an object in or on another."""
    side = frame.side
    width = frame.width * rng.uniform(0.84, 0.97)
    tallest = 0.9 if holder.kind == "chair" else 0.58  # a chair's seat is half-way up, other rims are at the top
    under = holder.draw(width, side * tallest * rng.uniform(0.9, 1.0), light)
    if under.rest is None:
        raise ValueError(f"nothing can be put on a {KINDS[holder.kind].word}")
    below = place(under, frame.middle, rng.uniform(0.9, 0.97) * side, side)
    rim = below.y + under.rest.y
    size = rng.uniform(0.82, 1.0)
    room = min((rim - 2) / (1 - MOST_HIDDEN), rim - 2 + under.rest.depth)
    above = subject.draw(under.rest.width * size, min(under.rest.height * size, room), light)
    depth = min(under.rest.depth, MOST_HIDDEN * (above.bounds[3] - above.bounds[1]))
    x = below.x + under.rest.x + rng.uniform(-0.06, 0.06) * under.rest.width
    return [place(above, x, rim + depth, side, grounded=False), below]


def place_under(subject: Order, cover: Order, rng: Random, frame: Frame, light: int) -> list[Placed]:
    """Place an object under a table or a flying object."""
    side = frame.side
    if not KINDS[cover.kind].stands:
        over = cover.draw(frame.width * rng.uniform(0.6, 0.9), side * rng.uniform(0.3, 0.38), light)
        above = place(over, frame.middle + rng.uniform(-0.1, 0.1) * frame.width, 0, side)
        room = side * rng.uniform(0.9, 0.97) - above.box[3]
        low = subject.draw(frame.width * rng.uniform(0.6, 0.9), room * 0.96, light)
        return [place(low, frame.middle, above.box[3] + room, side), above]
    over = cover.draw(frame.width * 0.98, side * 0.9, light)
    if over.below is None:
        raise ValueError(f"there is no room under a {KINDS[cover.kind].word}")
    above = place(over, frame.middle, rng.uniform(0.84, 0.96) * side, side)
    low = subject.draw(over.below.width, over.below.height * rng.uniform(0.86, 1.0), light)
    x = above.x + over.below.x + rng.uniform(-0.1, 0.1) * over.below.width
    return [place(low, x, above.y + over.below.y, side, grounded=False), above]


def place_before(subject: Order, other: Order, rng: Random, frame: Frame, light: int) -> list[Placed]:
    """Place an object in front of another, which it partly hides."""
    side, toward = frame.side, rng.choice((-1, 1))
    size = frame.width * rng.uniform(0.72, 0.84)
    far = other.draw(size, size, light)
    behind = place(far, frame.middle - toward * 0.1 * frame.width, rng.uniform(0.78, 0.86) * side, side)
    size = frame.width * rng.uniform(0.42, 0.5)
    near = subject.draw(size, size, light)
    before = place(near, frame.middle + toward * rng.uniform(0.18, 0.26) * frame.width, 0.96 * side, side)
    return [before, behind]
