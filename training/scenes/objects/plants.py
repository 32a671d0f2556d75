"""Drawing of trees and flowers: the crown or the bloom has the colour, trunks and stems have their own."""

from __future__ import annotations

import math

from training.scenes.canvas import INK, LEAF, WOOD, Pen, tone


def draw_oak_tree(pen: Pen) -> None:
    trunk = pen.pick(WOOD, (78, 50, 30))
    pen.polygon([(-0.14, 0.1), (0.14, 0.1), (0.15, 0.7), (0.34, 1.0), (-0.34, 1.0), (-0.15, 0.7)], trunk)
    pen.line([(0, 0.5), (-0.36, 0.1)], 0.1, trunk)
    pen.line([(0, 0.42), (0.36, 0.08)], 0.1, trunk)
    puffs = [
        (math.cos(a) * 0.58, -0.3 + math.sin(a) * 0.4, pen.vary(0.34, 0.12))
        for a in (i * math.tau / 9 for i in range(9))
    ]
    for x, y, r in puffs:
        pen.disc(x, y, r, colour=tone(pen.colour, -0.28))
    for x, y, r in puffs:
        pen.disc(x * 0.94 + pen.light * 0.05, y * 0.94 - 0.07, r * 0.86)
    pen.disc(0, -0.32, 0.55, 0.42)
    for _ in range(14):
        a, r = pen.rng.random() * math.tau, math.sqrt(pen.rng.random())
        x, y = math.cos(a) * r * 0.7, -0.32 + math.sin(a) * r * 0.5
        pen.curve([(x - 0.09, y), (x, y + 0.07), (x + 0.09, y)], 0.05, pen.ink)
    pen.disc(pen.light * 0.42, -0.6, 0.14, 0.1, tone(pen.colour, 0.3))


def draw_pine_tree(pen: Pen) -> None:
    pen.box(-0.11, 0.6, 0.11, 1.0, pen.pick(WOOD, (78, 50, 30)))
    tiers = 4
    for i in range(tiers - 1, -1, -1):
        top, bottom, w = -1.0 + i * 0.38, -0.4 + i * 0.4, 0.32 + 0.15 * i
        w = pen.vary(w, 0.06)
        jag = [(x * w, bottom + (0.07 if k % 2 else 0)) for k, x in enumerate((1, 0.7, 0.4, 0, -0.4, -0.7, -1))]
        pen.polygon([(0, top), *jag], tone(pen.colour, -0.3))
        pen.polygon([(0, top), *((x * 0.86 + pen.light * 0.06, y - 0.07) for x, y in jag)])
        pen.line([(0, top + 0.1), (pen.light * w * 0.5, bottom - 0.16)], 0.04, tone(pen.colour, 0.25))


def draw_palm_tree(pen: Pen) -> None:
    bend = pen.vary(0.3, 0.3)
    trunk = pen.pick((150, 108, 66), (78, 50, 30))
    spine = [(-bend, 1.0), (-bend * 0.8, 0.5), (-bend * 0.25, 0.0), (0.06, -0.42)]
    pen.curve(spine, 0.17, trunk)
    pen.curve([(-bend - 0.1, 1.0), (-bend + 0.1, 1.0)], 0.16, trunk)
    for i in range(1, 9):
        y = -0.42 + i * 0.165
        x = -bend * min(1, ((y + 0.42) / 1.1) ** 0.8) + 0.04 * (1 - i / 8)
        pen.line([(x - 0.08, y), (x + 0.08, y)], 0.035, tone(trunk, -0.35))
    crown = (0.05, -0.48)
    for angle, length in (
        (200, 0.92),
        (340, 0.92),
        (165, 0.85),
        (15, 0.85),
        (235, 0.7),
        (305, 0.7),
        (140, 0.6),
        (40, 0.6),
    ):
        a = math.radians(angle + pen.rng.uniform(-7, 7))
        dx, dy = math.cos(a) * length, math.sin(a) * length * 0.62
        tip = (crown[0] + dx, crown[1] + dy + 0.24)
        mid = (crown[0] + dx * 0.55, crown[1] + dy * 0.55 - 0.17)
        low = (crown[0] + dx * 0.55, crown[1] + dy * 0.55 + 0.06)
        pen.smooth([crown, mid, tip, low], tone(pen.colour, -0.25 if angle % 2 else 0))
        pen.curve([crown, (mid[0], mid[1] + 0.08), tip], 0.03, pen.ink)
    for x, y in ((-0.04, -0.36), (0.14, -0.34), (0.05, -0.28)):
        pen.disc(x, y, 0.085, colour=(92, 58, 34))


def draw_sunflower(pen: Pen) -> None:
    stem = pen.pick(LEAF, tone(LEAF, -0.4))
    pen.curve([(0, -0.3), (pen.vary(0.05, 1), 0.4), (0, 1.05)], 0.1, stem)
    pen.leaf(0, 0.75, 0.55, 0.38, 0.34, stem)
    pen.leaf(0, 0.9, -0.55, 0.55, 0.34, stem)
    y, r = -0.36, pen.vary(0.66, 0.05)
    for count, reach, colour in ((15, r, tone(pen.colour, -0.22)), (15, r * 0.94, pen.colour)):
        turn = pen.rng.random()
        for i in range(count):
            a = math.tau * (i + turn) / count
            pen.leaf(
                math.cos(a) * 0.24, y + math.sin(a) * 0.24, math.cos(a) * reach, y + math.sin(a) * reach, 0.2, colour
            )
    heart = pen.pick((96, 60, 32), INK, (222, 186, 70))
    pen.disc(0, y, 0.34, colour=tone(heart, -0.35))
    pen.disc(0, y, 0.29, colour=heart)
    for i in range(20):
        radius = 0.27 * math.sqrt(i / 20)
        pen.disc(radius * math.cos(i * 2.4), y + radius * math.sin(i * 2.4), 0.028, colour=tone(heart, 0.35))


def draw_rose(pen: Pen) -> None:
    stem = pen.pick(LEAF, tone(LEAF, -0.4))
    pen.curve([(0, -0.1), (pen.vary(-0.06, 1), 0.4), (0.05, 1.05)], 0.085, stem)
    for x, y, dx in ((-0.02, 0.3, 0.13), (0.0, 0.55, -0.13), (0.03, 0.85, 0.13)):
        pen.polygon([(x, y - 0.05), (x + dx, y - 0.05), (x, y + 0.07)], stem)
    pen.leaf(0, 0.62, 0.58, 0.3, 0.32, stem)
    pen.leaf(0, 0.8, -0.56, 0.5, 0.32, stem)
    for tip in (-0.46, -0.16, 0.16, 0.46):
        pen.leaf(0, -0.02, tip, 0.24 - abs(tip) * 0.3, 0.16, stem)
    w = pen.vary(0.58, 0.06)
    dark, light = tone(pen.colour, -0.3), tone(pen.colour, 0.16)
    pen.smooth(
        [
            (-w, -0.62),
            (-w * 0.98, -0.25),
            (-w * 0.5, 0.06),
            (0, 0.13),
            (w * 0.5, 0.06),
            (w * 0.98, -0.25),
            (w, -0.62),
            (w * 0.5, -0.9),
            (0, -1.0),
            (-w * 0.5, -0.9),
        ],
        dark,
    )
    pen.smooth([(-w * 0.6, -0.7), (0, -0.98), (w * 0.6, -0.7), (w * 0.55, -0.35), (0, -0.15), (-w * 0.55, -0.35)])
    pen.smooth([(-w, -0.66), (-w * 0.5, -0.48), (0, 0.1), (-w * 0.6, 0.02), (-w * 1.02, -0.28)], pen.colour)
    pen.smooth([(w, -0.66), (w * 0.5, -0.48), (0, 0.1), (w * 0.6, 0.02), (w * 1.02, -0.28)], light)
    line = pen.ink
    for r, (a0, a1) in ((0.36, (150, 400)), (0.25, (10, 280)), (0.15, (190, 460)), (0.07, (0, 300))):
        arc = [math.radians(a0 + (a1 - a0) * k / 5) for k in range(6)]
        pen.curve([(math.cos(a) * r * w * 1.7, -0.62 + math.sin(a) * r * 0.8) for a in arc], 0.05, line)
    pen.curve([(-w * 0.97, -0.62), (-w * 0.4, -0.4), (0, 0.08)], 0.045, line)
    pen.curve([(w * 0.97, -0.62), (w * 0.4, -0.4), (0, 0.08)], 0.045, line)


def draw_tulip(pen: Pen) -> None:
    stem = pen.pick(LEAF, tone(LEAF, -0.4))
    pen.curve([(0, -0.2), (pen.vary(0.04, 1), 0.4), (0, 1.05)], 0.085, stem)
    pen.smooth([(0.0, 1.04), (0.2, 0.6), (pen.vary(0.5), 0.02), (0.38, 0.6), (0.1, 1.02)], stem)
    pen.smooth([(0.0, 1.04), (-0.2, 0.7), (pen.vary(-0.48), 0.2), (-0.38, 0.7), (-0.1, 1.02)], tone(stem, -0.2))
    w = pen.vary(0.44)
    pen.smooth([(-0.1, -0.1), (-w * 1.05, -0.42), (-w * 0.9, -1.0), (-0.1, -0.66)], tone(pen.colour, -0.12))
    pen.smooth([(0.1, -0.1), (w * 1.05, -0.42), (w * 0.9, -1.0), (0.1, -0.66)], tone(pen.colour, -0.25))
    pen.polygon(
        [
            (-w * 0.98, -0.5),
            (-w * 0.9, -1.02),
            (-w * 0.3, -0.72),
            (0, -1.04),
            (w * 0.3, -0.72),
            (w * 0.9, -1.02),
            (w * 0.98, -0.5),
        ],
        tone(pen.colour, -0.2),
    )
    pen.smooth(
        [(0, -0.06), (-w * 0.75, -0.22), (-w, -0.5), (0, -0.42), (w, -0.5), (w * 0.75, -0.22)], tone(pen.colour, -0.2)
    )
    pen.smooth([(0, -0.05), (-w * 0.6, -0.3), (-w * 0.5, -0.7), (0, -1.06), (w * 0.5, -0.7), (w * 0.6, -0.3)])
    pen.curve([(0, -0.92), (0, -0.3)], 0.035, pen.ink)
    pen.disc(pen.light * w * 0.25, -0.5, 0.05, 0.13, tone(pen.colour, 0.4))
