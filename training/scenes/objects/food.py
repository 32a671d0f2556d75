"""Drawing of fruit and vegetables. Every function draws one kind in the pen's colour."""

from __future__ import annotations

import math

from training.scenes.canvas import CREAM, LEAF, WHITE, WOOD, Pen, tone


def draw_apple(pen: Pen) -> None:
    w, h = pen.vary(0.92), pen.vary(0.84, 0.05)
    half = [(0.46 * w, -0.72), (0.9 * w, -0.5), (1.0 * w, 0.0), (0.8 * w, h * 0.7), (0.38 * w, h + 0.1)]
    left = [(-x, y) for x, y in reversed(half)]
    pen.body([(0, -0.52), *half, (0, h), *left])
    pen.smooth([(-0.26, -0.6), (0, -0.5), (0.26, -0.6), (0, -0.38)], tone(pen.colour, -0.45))
    pen.curve([(0, -0.48), (0.02, -0.75), (pen.vary(0.16, 0.6), -1.02)], 0.1, WOOD)
    pen.leaf(0.04, -0.7, pen.vary(0.62), -0.98, 0.34, pen.pick(LEAF, tone(LEAF, -0.4)))


def draw_pear(pen: Pen) -> None:
    w, neck = pen.vary(0.72), pen.vary(0.3, 0.12)
    half = [(neck * 0.8, -0.72), (neck * 1.15, -0.38), (w * 0.82, 0.08), (w, 0.5), (w * 0.7, 0.9), (w * 0.25, 1.0)]
    left = [(-x, y) for x, y in reversed(half)]
    pen.body([(0, -0.8), *half, *left], gloss=0)
    pen.disc(pen.light * w * 0.45, 0.36, 0.1, 0.18, tone(pen.colour, 0.4))
    for _ in range(9):
        x, y = pen.rng.uniform(-0.5, 0.5) * w, pen.rng.uniform(0.35, 0.85)
        pen.disc(x, y, 0.03, colour=tone(pen.colour, -0.3))
    pen.curve([(0, -0.75), (0.03, -0.95), (pen.vary(0.14, 0.5), -1.14)], 0.09, WOOD)
    pen.leaf(0.04, -0.88, pen.vary(-0.48), -1.06, 0.26, pen.pick(LEAF, tone(LEAF, -0.4)))


def draw_orange(pen: Pen) -> None:
    """A whole one behind a half: the inside distinguishes it from other round objects."""
    r = pen.vary(0.8, 0.05)
    pen.ball(-0.2, -0.16, r)
    for i in range(26):
        angle, radius = i * 2.4, r * 0.88 * math.sqrt((i + 0.5) / 26)
        x, y = -0.2 + radius * math.cos(angle), -0.16 + radius * math.sin(angle)
        pen.disc(x, y, 0.035, colour=tone(pen.colour, -0.22))
    pen.leaf(-0.18, -0.8, pen.vary(0.3), -1.02, 0.26, pen.pick(LEAF, tone(LEAF, -0.4)))
    pen.disc(-0.2, -0.8, 0.1, 0.07, WOOD)
    x, y, r = 0.44, 0.4, pen.vary(0.58, 0.05)
    pen.disc(x, y, r, colour=tone(pen.colour, -0.2))
    pen.disc(x, y, r * 0.9, colour=tone(CREAM, 0.5) if sum(pen.colour) < 600 else tone(pen.colour, -0.35))
    start = pen.rng.random()
    for i in range(8):
        a, b = math.tau * (i + start + 0.08) / 8, math.tau * (i + start + 0.92) / 8
        near, far = r * 0.14, r * 0.8
        middle = (a + b) / 2
        cx, cy = x + near * math.cos(middle), y + near * math.sin(middle)
        edge = [(x + far * math.cos(t), y + far * math.sin(t)) for t in (a, (a + middle) / 2, middle, b)]
        pen.polygon([(cx, cy), *edge], tone(pen.colour, 0.12))


def draw_sweet_pepper(pen: Pen) -> None:
    w, low = pen.vary(0.82), pen.vary(0.95, 0.05)
    pen.body(
        [
            (-0.35 * w, -0.62),
            (-w, -0.45),
            (-0.95 * w, 0.2),
            (-0.62 * w, low),
            (-0.3 * w, low * 0.92),
            (0, low * 1.03),
            (0.3 * w, low * 0.92),
            (0.62 * w, low),
            (0.95 * w, 0.2),
            (w, -0.45),
            (0.35 * w, -0.62),
            (0, -0.5),
        ],
        gloss=0,
    )
    for side in (-1, 1):
        pen.curve([(side * 0.2 * w, -0.5), (side * 0.42 * w, 0.0), (side * 0.3 * w, 0.84)], 0.06, pen.ink)
    pen.disc(pen.light * w * 0.68, -0.1, 0.07, 0.22, tone(pen.colour, 0.45))
    stem = pen.pick(LEAF, tone(LEAF, -0.45))
    pen.smooth([(-0.4, -0.55), (0, -0.75), (0.4, -0.55), (0.2, -0.45), (0, -0.38), (-0.2, -0.45)], stem)
    pen.curve([(0, -0.6), (0.02, -0.85), (pen.vary(0.2, 0.4), -1.02)], 0.18, stem)


def draw_mushroom(pen: Pen) -> None:
    w, stalk = pen.vary(0.96, 0.04), pen.vary(0.26)
    flesh = pen.pick(CREAM, tone(CREAM, -0.3))
    side = [(stalk * 1.35, 0.92), (stalk * 0.85, 0.5), (stalk, 0.0)]
    pen.body([(0, 1.0), *side, *((-x, y) for x, y in reversed(side))], flesh, gloss=0)
    pen.disc(0, 0.1, w * 0.9, 0.17, tone(flesh, -0.3))
    edge = [(0.45 * w, -0.85), (0.86 * w, -0.42), (w, 0.06), (0.5 * w, 0.14)]
    pen.body([(0, -0.97), *edge, (0, 0.16), *((-x, y) for x, y in reversed(edge))], gloss=0)
    spots = ((-0.5, -0.32, 0.15), (0.05, -0.6, 0.17), (0.5, -0.38, 0.14), (0.0, -0.1, 0.13), (-0.72, -0.02, 0.07))
    for x, y, r in (*spots, (0.7, 0.0, 0.08)):
        pen.disc(pen.vary(x) * w, y, pen.vary(r, 0.15), r * 0.8, pen.pick(WHITE, (190, 70, 60)))
