"""Drawing of devices and furniture; tables, chairs, couches and beds can carry other objects."""

from __future__ import annotations

import math
from itertools import pairwise

from training.scenes.canvas import CREAM, GLASS, GOLD, INK, SILVER, STEEL, WHITE, WOOD, Pen, Point, tone


def draw_clock(pen: Pen) -> None:
    """An alarm clock: bells and feet."""
    y = 0.1
    for side in (-1, 1):
        pen.line([(side * 0.4, 0.6), (side * 0.62, 0.98)], 0.14, tone(pen.colour, -0.35))
        pen.ball(side * 0.48, -0.7, 0.3, 0.22, gloss=0)
    pen.line([(0, -0.6), (0, -0.92)], 0.08, STEEL)
    pen.line([(-0.12, -0.92), (0.12, -0.92)], 0.1, STEEL)
    pen.disc(0, y, 0.82, colour=tone(pen.colour, -0.25))
    pen.disc(pen.light * 0.02, y - 0.02, 0.78)
    pen.disc(0, y, 0.6, colour=pen.pick(WHITE, (64, 70, 86)))
    hand = INK if distance_from_white(pen) else WHITE
    for i in range(12):
        a = math.tau * i / 12
        pen.disc(math.cos(a) * 0.5, y + math.sin(a) * 0.5, 0.055 if i % 3 == 0 else 0.032, colour=hand)
    hour, minute = pen.rng.random() * math.tau, pen.rng.random() * math.tau
    pen.line([(0, y), (math.cos(hour) * 0.28, y + math.sin(hour) * 0.28)], 0.08, hand)
    pen.line([(0, y), (math.cos(minute) * 0.44, y + math.sin(minute) * 0.44)], 0.055, hand)
    pen.disc(0, y, 0.06, colour=(200, 40, 40))


def distance_from_white(pen: Pen) -> bool:
    """Whether white stands out from the main colour."""
    return pen.pick(WHITE, INK) == WHITE


def draw_lamp(pen: Pen) -> None:
    stand = pen.pick((176, 140, 84), STEEL)
    pen.line([(0, 0.0), (0, 0.86)], 0.1, stand)
    pen.ball(0, 0.5, 0.17, 0.24, stand, gloss=0.4)
    pen.pill(-0.36, 0.82, 0.36, 0.99, 0.07, tone(stand, -0.2))
    top, wide = pen.vary(0.34), pen.vary(0.74)
    pen.polygon([(-top, -0.94), (top, -0.94), (wide, 0.08), (-wide, 0.08)], tone(pen.colour, -0.15))
    shift = pen.light * 0.08
    pen.polygon(
        [
            (-top * 0.6 + shift, -0.94),
            (top * 0.6 + shift, -0.94),
            (wide * 0.6 + shift, 0.08),
            (-wide * 0.6 + shift, 0.08),
        ],
        tone(pen.colour, 0.12),
    )
    trim = pen.pick(CREAM, GOLD)
    pen.line([(-top, -0.92), (top, -0.92)], 0.07, trim)
    pen.line([(-wide, 0.06), (wide, 0.06)], 0.08, trim)
    pen.line([(wide * 0.62, 0.1), (wide * 0.62, 0.36)], 0.025, STEEL)
    pen.disc(wide * 0.62, 0.38, 0.045, colour=GOLD)


def draw_chair(pen: Pen) -> None:
    """Seen from the side and a little from above: the back rises at the left."""
    dark = tone(pen.colour, -0.3) if sum(pen.colour) > 150 else tone(pen.colour, 0.2)
    seat = pen.vary(0.14, 0.3)
    for x in (-0.22, 0.62):
        pen.line([(x, seat), (x, 0.82)], 0.09, dark)
    pen.polygon([(-0.56, -0.98), (-0.24, -1.08), (-0.24, seat), (-0.56, seat + 0.1)], dark)
    for y in (-0.84, -0.5):
        pen.polygon([(-0.58, y - 0.08), (-0.22, y - 0.18), (-0.22, y + 0.08), (-0.58, y + 0.18)])
    pen.polygon(
        [(-0.62, seat + 0.12), (-0.2, seat - 0.08), (0.74, seat - 0.08), (0.52, seat + 0.12)], tone(pen.colour, 0.15)
    )
    pen.polygon([(-0.62, seat + 0.12), (0.52, seat + 0.12), (0.52, seat + 0.24), (-0.62, seat + 0.24)])
    pen.polygon([(0.52, seat + 0.12), (0.74, seat - 0.08), (0.74, seat + 0.04), (0.52, seat + 0.24)], dark)
    for x in (-0.55, 0.45):
        pen.line([(x, seat + 0.2), (x, 0.98)], 0.11)
    pen.line([(-0.57, -1.0), (-0.57, seat + 0.1)], 0.11)
    pen.offer_rest(0.12, seat + 0.07, 0.8, 0.95)


def draw_table(pen: Pen) -> None:
    dark = tone(pen.colour, -0.3) if sum(pen.colour) > 150 else tone(pen.colour, 0.2)
    top, depth = pen.vary(-0.5, 0.1), pen.vary(0.22)
    for x in (-0.66, 0.66):
        pen.line([(x, top + depth), (x, 0.48)], 0.1, dark)
    pen.box(-0.86, top + depth, 0.86, top + depth + 0.2, dark)
    for x in (-0.86, 0.86):
        pen.line([(x, top + depth), (x, 0.7)], 0.14)
    pen.polygon([(-0.76, top), (0.76, top), (1.02, top + depth), (-1.02, top + depth)], tone(pen.colour, 0.15))
    pen.box(-1.02, top + depth, 1.02, top + depth + 0.1)
    pen.offer_rest(pen.vary(0.01, 20), top + depth * 0.6, 0.9, 1.0)
    pen.offer_below(0, 0.68, 1.1, 0.62)


def draw_telephone(pen: Pen) -> None:
    dark = tone(pen.colour, -0.25)
    w = pen.vary(0.86, 0.05)
    pen.smooth(
        [(-0.5, -0.3), (-0.66, 0.1), (-w, 0.62), (-w * 0.9, 0.8), (w * 0.9, 0.8), (w, 0.62), (0.66, 0.1), (0.5, -0.3)],
        dark,
    )
    pen.smooth(
        [
            (-0.44, -0.26),
            (-0.58, 0.1),
            (-w * 0.9, 0.6),
            (-w * 0.8, 0.7),
            (w * 0.8, 0.7),
            (w * 0.9, 0.6),
            (0.58, 0.1),
            (0.44, -0.26),
        ]
    )
    for x in (-0.32, 0.32):
        pen.box(x - 0.09, -0.48, x + 0.09, -0.1, dark)
    plate = pen.pick(WHITE, (205, 185, 140))
    pen.disc(0, 0.26, 0.37, colour=plate)
    for i in range(10):
        a = math.tau * (i + 0.5) / 10
        pen.disc(math.cos(a) * 0.26, 0.26 + math.sin(a) * 0.26, 0.055, colour=tone(plate, -0.7))
    pen.disc(0, 0.26, 0.12, colour=tone(pen.colour, 0.1))
    pen.curve([(-0.8, -0.42), (-0.55, -0.64), (0, -0.72), (0.55, -0.64), (0.8, -0.42)], 0.21)
    for x in (-0.82, 0.82):
        pen.ball(x, -0.36, 0.24, 0.19, gloss=0)
    pen.curve([(-0.6, -0.68), (0, -0.78), (0.6, -0.68)], 0.05, tone(pen.colour, 0.35))


def draw_television(pen: Pen) -> None:
    top = pen.vary(-0.44, 0.08)
    spread = pen.vary(0.48, 0.15)
    for x in (-spread, spread):
        pen.line([(0, top), (x, -0.98)], 0.05, STEEL)
        pen.disc(x, -0.98, 0.06, colour=STEEL)
    for x in (-0.58, 0.58):
        pen.line([(x, 0.7), (x * 1.25, 0.98)], 0.12, tone(pen.colour, -0.4))
    pen.pill(-1.0, top, 1.0, 0.78, 0.14, tone(pen.colour, -0.2))
    pen.pill(-0.98, top, 0.98, 0.72, 0.13)
    pen.pill(-0.84, top + 0.13, 0.5, 0.6, 0.14, tone(pen.colour, -0.5))
    screen = pen.pick((86, 106, 122), GLASS)
    pen.pill(-0.8, top + 0.17, 0.46, 0.56, 0.13, screen)
    pen.polygon([(-0.66, 0.3), (-0.66, top + 0.3), (-0.4, top + 0.24)], tone(screen, 0.45))
    knob = pen.pick(CREAM, STEEL)
    for y in (top + 0.28, top + 0.58):
        pen.disc(0.74, y, 0.12, colour=knob)
        pen.line([(0.74, y), (0.74, y - 0.08)], 0.035, INK)
    for y in (0.4, 0.5, 0.6):
        pen.line([(0.62, y), (0.86, y)], 0.04, pen.ink)


def draw_keyboard(pen: Pen) -> None:
    """A slab seen from above, its far edge shorter."""
    h, slant = pen.vary(0.38, 0.1), 0.86

    def at(x: float, y: float) -> Point:
        return x * (slant + (1 - slant) * (y + 1) / 2), y * h

    pen.polygon([at(-1, -1), at(1, -1), at(1, 1.22), at(-1, 1.22)], tone(pen.colour, -0.4))
    pen.polygon([at(-1, -1), at(1, -1), at(1, 1), at(-1, 1)])
    key = pen.pick(WHITE, (70, 74, 84))
    for row in range(4):
        top, bottom = -0.86 + row * 0.44, -0.52 + row * 0.44
        ends = [-0.92 + 0.184 * i for i in range(11)] if row < 3 else [-0.92, -0.68, -0.46, 0.46, 0.7, 0.92]
        for left, right in pairwise(ends):
            pen.polygon(
                [at(left + 0.018, top), at(right - 0.018, top), at(right - 0.018, bottom), at(left + 0.018, bottom)],
                key,
            )


def draw_couch(pen: Pen) -> None:
    dark = tone(pen.colour, -0.25) if sum(pen.colour) > 150 else tone(pen.colour, 0.14)
    back = pen.vary(-0.52, 0.1)
    for x in (-0.74, 0.74):
        pen.box(x - 0.06, 0.48, x + 0.06, 0.64, pen.pick(WOOD, INK, CREAM))
    pen.pill(-0.84, back, 0.84, 0.3, 0.16, dark)
    for x in (-0.4, 0.4):
        pen.pill(x - 0.38, back + 0.06, x + 0.38, 0.14, 0.1)
    pen.box(-0.8, 0.2, 0.8, 0.5, dark)
    for x in (-0.36, 0.36):
        pen.pill(x - 0.35, 0.06, x + 0.35, 0.3, 0.08, tone(pen.colour, 0.16))
    for x in (-0.86, 0.86):
        pen.pill(x - 0.16, -0.16, x + 0.16, 0.52, 0.14)
        pen.disc(x, -0.02, 0.1, colour=dark)
    pen.offer_rest(pen.vary(0.01, 25), 0.18, 0.7, 0.9)


def draw_bed(pen: Pen) -> None:
    """From the side: headboard at the left, pillow, blanket, legs."""
    wood = pen.pick(WOOD, (196, 156, 104))
    head = pen.vary(-0.58, 0.08)
    pen.pill(-1.02, head, -0.86, 0.66, 0.07, wood)
    pen.pill(0.88, -0.1, 1.02, 0.66, 0.06, wood)
    pen.box(-0.9, 0.3, 0.92, 0.46, wood)
    sheet = pen.pick(WHITE, (206, 200, 190))
    pen.pill(-0.87, 0.02, 0.89, 0.34, 0.08, sheet)
    pen.pill(-0.85, -0.26, -0.36, 0.04, 0.13, tone(sheet, -0.14))
    pen.pill(-0.84, -0.26, -0.38, 0.0, 0.12, sheet)
    pen.smooth(
        [
            (-0.34, -0.02),
            (-0.28, -0.15),
            (0.3, -0.18),
            (0.82, -0.12),
            (0.9, 0.1),
            (0.88, 0.4),
            (0.2, 0.38),
            (-0.34, 0.4),
            (-0.4, 0.2),
        ],
        tone(pen.colour, -0.12),
    )
    pen.smooth(
        [(-0.3, -0.04), (-0.26, -0.15), (0.3, -0.18), (0.8, -0.12), (0.84, 0.04), (0.2, 0.06), (-0.3, 0.06)],
        tone(pen.colour, 0.12),
    )
    for x in (0.0, 0.32, 0.62):
        pen.line([(x, 0.08), (x + 0.04, 0.36)], 0.03, pen.ink)
    pen.offer_rest(0.2, -0.08, 0.6, 0.9)


def draw_wardrobe(pen: Pen) -> None:
    w = pen.vary(0.68)
    dark = tone(pen.colour, -0.35) if sum(pen.colour) > 150 else tone(pen.colour, 0.3)
    for x in (-w * 0.8, w * 0.8):
        pen.box(x - 0.09, 0.88, x + 0.09, 1.02, dark)
    pen.box(-w, -0.86, w, 0.92, tone(pen.colour, -0.15))
    pen.box(-w - 0.08, -1.0, w + 0.08, -0.84, dark)
    pen.box(-w - 0.04, 0.8, w + 0.04, 0.92, dark)
    for side in (-1, 1):
        left, right = sorted((side * 0.03, side * (w - 0.06)))
        pen.box(left, -0.76, right, 0.72)
        for top, bottom in ((-0.64, -0.06), (0.08, 0.6)):
            pen.line(
                [(left + 0.1, top), (right - 0.1, top), (right - 0.1, bottom), (left + 0.1, bottom), (left + 0.1, top)],
                0.035,
                dark,
            )
        pen.disc(side * 0.1, 0.01, 0.05, colour=pen.pick(GOLD, SILVER))
