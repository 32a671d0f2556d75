"""Drawing of animals: the fur, scales, wings or shell have the colour."""

from __future__ import annotations

import math

from training.scenes.canvas import CREAM, GLASS, GOLD, INK, WHITE, Pen, tone

SKIN = (150, 165, 80)
TAN = (214, 178, 120)


def draw_eye(pen: Pen, x: float, y: float, r: float) -> None:
    """An eye seen from the side."""
    pen.disc(x, y, r, colour=WHITE)
    pen.disc(x + r * 0.25, y, r * 0.58, colour=INK)


def draw_aquarium_fish(pen: Pen) -> None:
    h = pen.vary(0.5, 0.1)
    fin = tone(pen.colour, -0.25) if sum(pen.colour) > 150 else tone(pen.colour, 0.3)
    pen.smooth([(-0.5, 0), (-0.98, -0.55), (-0.86, 0), (-0.98, 0.55)], fin)
    pen.smooth([(-0.35, -h * 0.7), (-0.25, -h - 0.34), (0.3, -h * 0.95 - 0.1), (0.35, -h * 0.7)], fin)
    pen.smooth([(-0.1, h * 0.7), (-0.25, h + 0.3), (0.2, h * 0.9)], fin)
    pen.body(
        [
            (-0.62, 0),
            (-0.3, -h * 0.72),
            (0.2, -h),
            (0.7, -h * 0.7),
            (0.98, 0.0),
            (0.7, h * 0.7),
            (0.2, h),
            (-0.3, h * 0.72),
        ],
        gloss=0,
    )
    stripe = pen.pick(WHITE, (240, 140, 40))
    for x, half in ((0.28, 0.86), (-0.22, 0.66)):
        pen.smooth(
            [
                (x - 0.07, -h * half),
                (x + 0.07, -h * half),
                (x + 0.14, 0),
                (x + 0.07, h * half),
                (x - 0.07, h * half),
                (x, 0),
            ],
            stripe,
        )
    pen.smooth([(0.1, 0.12), (-0.2, 0.02), (-0.22, 0.32)], fin)
    draw_eye(pen, 0.66, -0.14, 0.12)
    pen.curve([(0.95, 0.12), (0.84, 0.17), (0.76, 0.14)], 0.04, INK)


def draw_turtle(pen: Pen) -> None:
    skin = pen.pick(SKIN, TAN, tone(TAN, -0.4))
    for x in (-0.55, 0.32):
        pen.pill(x - 0.15, 0.2, x + 0.17, 0.66, 0.1, tone(skin, -0.2))
    pen.polygon([(-0.72, 0.3), (-1.05, 0.42), (-0.7, 0.46)], skin)
    pen.curve([(0.5, 0.3), (0.75, 0.2), (0.86, -0.02)], 0.26, skin)
    pen.ball(0.92, -0.1, 0.22, 0.18, skin, gloss=0)
    draw_eye(pen, 0.98, -0.14, 0.06)
    h = pen.vary(0.84, 0.1)
    dome = [
        (-0.85, 0.34),
        (-0.78, -h * 0.2),
        (-0.45, -h * 0.7),
        (-0.05, -h * 0.86),
        (0.35, -h * 0.7),
        (0.64, -h * 0.2),
        (0.7, 0.34),
        (0, 0.4),
    ]
    pen.body(dome, gloss=0)
    line = pen.ink
    plate = [(-0.36, -h * 0.42), (0.2, -h * 0.42), (0.36, 0.0), (0.2, 0.22), (-0.36, 0.22), (-0.52, 0.0)]
    pen.polygon(plate, tone(pen.colour, -0.18) if sum(pen.colour) > 150 else tone(pen.colour, 0.2))
    pen.line([*plate, plate[0]], 0.05, line)
    for (x, y), (tx, ty) in zip(
        plate,
        ((-0.5, -h * 0.66), (0.38, -h * 0.66), (0.68, 0.0), (0.3, 0.36), (-0.44, 0.36), (-0.82, 0.0)),
        strict=True,
    ):
        pen.line([(x, y), (tx, ty)], 0.05, line)
    pen.curve([(-0.86, 0.33), (-0.1, 0.42), (0.72, 0.33)], 0.12, tone(pen.colour, -0.35))
    for x in (-0.36, 0.52):
        pen.pill(x - 0.16, 0.32, x + 0.18, 0.72, 0.1, skin)


def draw_crab(pen: Pen) -> None:
    limb = tone(pen.colour, -0.2)
    for side in (-1, 1):
        for i in range(3):
            y = 0.2 + i * 0.14
            reach = pen.vary(0.92 - i * 0.12)
            pen.line(
                [(side * 0.4, y), (side * reach, y - 0.04 + i * 0.1), (side * (reach + 0.06), y + 0.26 + i * 0.06)],
                0.09,
                limb,
            )
        pen.curve([(side * 0.45, 0.0), (side * 0.82, -0.08), (side * 0.78, -0.4)], 0.13, limb)
        claw = (side * 0.72, -0.58)
        pen.ball(claw[0], claw[1], 0.29, 0.27, gloss=0.3)
        pen.line([(side * 0.22, -0.1), (side * 0.2, -0.5)], 0.06, limb)
        draw_eye(pen, side * 0.2, -0.48, 0.1)
    h = pen.vary(0.42, 0.08)
    pen.ball(0, 0.22, 0.62, h)
    pen.curve([(-0.22, 0.38), (0, 0.46), (0.22, 0.38)], 0.05, pen.ink)
    pen.erase([(-0.66, -0.6), (-0.48, -0.95), (-0.72, -0.95)])
    pen.erase([(0.66, -0.6), (0.48, -0.95), (0.72, -0.95)])


def draw_butterfly(pen: Pen) -> None:
    w, low = pen.vary(0.98, 0.03), pen.vary(0.78)
    spot = pen.pick(WHITE, GOLD, (70, 120, 220))
    edge = tone(pen.colour, -0.5) if sum(pen.colour) > 150 else tone(pen.colour, 0.35)
    for side in (-1, 1):
        upper = [
            (side * 0.05, -0.08),
            (side * 0.35, -0.72),
            (side * 0.85 * w, -0.86),
            (side * w, -0.45),
            (side * 0.75 * w, -0.02),
        ]
        lower = [
            (side * 0.05, 0.02),
            (side * 0.7 * w, 0.04),
            (side * 0.8 * w, 0.4),
            (side * 0.55 * w, low),
            (side * 0.22, 0.5),
        ]
        for wing, x, y in ((lower, 0.45, 0.34), (upper, 0.55, -0.42)):
            pen.smooth(wing, edge)
            pen.smooth([(side * x * w + (px - side * x * w) * 0.82, y + (py - y) * 0.82) for px, py in wing])
        pen.disc(side * 0.66 * w, -0.54, 0.14, colour=spot)
        pen.disc(side * 0.42 * w, -0.3, 0.08, colour=spot)
        pen.disc(side * 0.5 * w, 0.42, 0.12, colour=spot)
        pen.curve([(0, -0.5), (side * 0.12, -0.8), (side * 0.3, -0.96)], 0.04, INK)
    pen.disc(0, 0.02, 0.085, 0.55, pen.pick(INK, (96, 70, 50)))
    pen.disc(0, -0.52, 0.11, colour=pen.pick(INK, (96, 70, 50)))


def draw_snail(pen: Pen) -> None:
    skin = pen.pick(TAN, (170, 150, 70), tone(TAN, -0.45))
    pen.smooth(
        [
            (-1.0, 0.72),
            (-0.5, 0.5),
            (0.2, 0.46),
            (0.5, 0.2),
            (0.66, -0.2),
            (0.92, -0.22),
            (0.98, 0.1),
            (0.85, 0.55),
            (0.6, 0.76),
            (-0.4, 0.78),
        ],
        skin,
    )
    for tip in ((0.7, -0.62), (1.02, -0.58)):
        pen.line([(0.8, -0.12), tip], 0.06, skin)
        pen.disc(*tip, 0.08, colour=INK)
    pen.curve([(0.92, 0.12), (0.82, 0.16), (0.76, 0.1)], 0.035, INK)
    r = pen.vary(0.64, 0.06)
    x, y = -0.2, 0.0
    pen.ball(x, y, r, gloss=0)
    turns = [
        (x + 0.04 + math.cos(t) * k, y + math.sin(t) * k)
        for t, k in ((0.5 * i, r * 0.93 * (1 - i / 30)) for i in range(30))
    ]
    pen.curve(turns[2:], 0.075, pen.ink)


def draw_snake(pen: Pen) -> None:
    a = pen.vary(0.32, 0.15)
    spine = [
        (-1.0, 0.62),
        (-0.75, 0.25),
        (-0.45, 0.2 + a),
        (-0.12, 0.42),
        (0.1, 0.1 - a * 0.4),
        (0.42, -0.05),
        (0.48, 0.32),
        (0.85, 0.42),
        (0.95, 0.0),
        (0.62, -0.45),
    ]
    pen.curve(spine, 0.27, tone(pen.colour, -0.25))
    pen.curve([(x, y - 0.025) for x, y in spine], 0.21)
    pen.line([spine[0], (-1.1, 0.8)], 0.12, tone(pen.colour, -0.25))
    band = pen.pick(GOLD, WHITE, (40, 40, 46))
    for i in range(1, len(spine) - 1):
        (x0, y0), (x1, y1) = spine[i], spine[i + 1]
        for t in (0.0, 0.5):
            pen.disc(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t, 0.06, colour=band)
    pen.line([(0.3, -0.62), (0.02, -0.68), (-0.1, -0.76)], 0.045, (210, 30, 50))
    pen.line([(0.02, -0.68), (-0.12, -0.62)], 0.045, (210, 30, 50))
    pen.smooth([(0.78, -0.5), (0.62, -0.3), (0.36, -0.42), (0.18, -0.58), (0.36, -0.76), (0.64, -0.72)])
    draw_eye(pen, 0.42, -0.62, 0.075)


def draw_whale(pen: Pen) -> None:
    h = pen.vary(0.52, 0.08)
    water = pen.pick(GLASS, (70, 130, 210))
    for dx in (-0.26, 0.26):
        pen.curve([(0.42, -0.45), (0.42 + dx * 0.4, -0.9), (0.42 + dx, -0.98), (0.42 + dx * 1.5, -0.72)], 0.08, water)
    pen.smooth([(-0.72, -0.1), (-1.1, -0.62), (-0.84, -0.52), (-0.58, -0.62), (-0.62, -0.2)], tone(pen.colour, -0.2))
    pen.body(
        [
            (-0.82, -0.32),
            (-0.5, -0.06),
            (-0.1, -0.4),
            (0.45, -h),
            (0.88, -0.28),
            (1.0, 0.1),
            (0.82, 0.46),
            (0.3, 0.6),
            (-0.3, 0.48),
            (-0.68, 0.16),
        ],
        gloss=0,
    )
    belly = pen.pick(WHITE, (150, 160, 172))
    pen.smooth([(0.98, 0.2), (0.8, 0.47), (0.3, 0.6), (-0.2, 0.5), (0.25, 0.36), (0.7, 0.26)], belly)
    for x in (0.2, 0.42, 0.64):
        pen.line([(x, 0.38), (x + 0.02, 0.54)], 0.03, tone(belly, -0.35))
    pen.smooth(
        [(0.12, 0.3), (-0.18, 0.66), (0.34, 0.42)],
        tone(pen.colour, -0.28) if sum(pen.colour) > 150 else tone(pen.colour, 0.25),
    )
    draw_eye(pen, 0.66, -0.06, 0.085)


def draw_caterpillar(pen: Pen) -> None:
    n = 6
    leg = pen.pick(INK, (130, 90, 60))
    beads = [(-0.86 + i * 0.3, 0.22 - pen.vary(0.2, 0.2) * math.sin(i * 1.1)) for i in range(n)]
    for x, y in beads:
        for dx in (-0.08, 0.08):
            pen.line([(x + dx, y + 0.15), (x + dx, y + 0.4)], 0.07, leg)
    for i, (x, y) in enumerate(beads):
        pen.ball(
            x,
            y,
            0.25,
            colour=pen.colour if i % 2 else tone(pen.colour, 0.3 if sum(pen.colour) < 600 else -0.2),
            gloss=0.3,
        )
    x, y = 0.8, -0.08
    for dx in (-0.14, 0.14):
        pen.curve([(x + dx * 0.5, y - 0.2), (x + dx, y - 0.42), (x + dx * 1.6, y - 0.5)], 0.045, INK)
        pen.disc(x + dx * 1.6, y - 0.52, 0.055, colour=INK)
    pen.ball(x, y, 0.3)
    for dx in (-0.08, 0.12):
        draw_eye(pen, x + dx, y - 0.06, 0.08)
    pen.curve([(x - 0.1, y + 0.12), (x + 0.02, y + 0.18), (x + 0.14, y + 0.12)], 0.04, INK)


def draw_spider(pen: Pen) -> None:
    limb = tone(pen.colour, -0.25) if sum(pen.colour) > 150 else tone(pen.colour, 0.15)
    for side in (-1, 1):
        for lift, reach, foot in ((-0.62, 0.74, -0.9), (-0.34, 0.88, -0.1), (-0.04, 0.86, 0.5), (0.14, 0.66, 0.95)):
            knee = pen.vary(0.52, 0.1)
            pen.line([(0, 0.0), (side * knee, lift), (side * reach, foot)], 0.075, limb)
    pen.ball(0, 0.32, pen.vary(0.38), 0.42)
    mark = pen.pick(WHITE, (200, 40, 40))
    pen.polygon([(0, 0.3), (-0.12, 0.14), (0.12, 0.14)], mark)
    pen.polygon([(0, 0.3), (-0.12, 0.48), (0.12, 0.48)], mark)
    pen.ball(0, -0.16, 0.25, gloss=0)
    for x in (-0.1, 0.1):
        pen.disc(x, -0.24, 0.085, colour=WHITE)
        pen.disc(x, -0.26, 0.045, colour=INK)


def draw_rabbit(pen: Pen) -> None:
    pink = pen.pick((240, 170, 180), CREAM)
    ear = pen.vary(0.18, 0.15)
    for x in (0.14, 0.5):
        pen.ball(x - 0.04, -0.66, ear * 0.75, 0.36, gloss=0)
        pen.disc(x - 0.04, -0.64, ear * 0.4, 0.25, pink)
    pen.ball(
        -0.74,
        0.5,
        0.2,
        colour=pen.pick(WHITE, SKIN, CREAM) if sum(pen.colour) < 600 else tone(pen.colour, -0.2),
        gloss=0,
    )
    pen.ball(-0.2, 0.42, 0.6, 0.54, gloss=0)
    pen.curve([(-0.5, 0.5), (-0.3, 0.2), (0.0, 0.4), (-0.05, 0.8)], 0.05, pen.ink)
    pen.ball(-0.12, 0.9, 0.34, 0.12, gloss=0)
    pen.ball(0.36, 0.86, 0.22, 0.13, gloss=0)
    pen.ball(0.34, -0.1, 0.38, 0.33)
    draw_eye(pen, 0.44, -0.16, 0.085)
    pen.disc(0.7, -0.04, 0.06, 0.05, (220, 90, 110))
    for y in (0.0, 0.1):
        pen.line([(0.62, 0.04 + y * 0.4), (0.95, y - 0.03)], 0.025, pen.ink)
