"""Drawing of plates, bowls, cups, bottles and cans; the first three can contain other objects."""

from __future__ import annotations

from training.scenes.canvas import GOLD, INK, SILVER, STEEL, WHITE, Pen, Point, tone


def draw_plate(pen: Pen) -> None:
    h = pen.vary(0.52, 0.12)
    pen.disc(0, 0.09, 1.0, h, tone(pen.colour, -0.4))
    pen.disc(0, 0, 1.0, h, tone(pen.colour, 0.12))
    pen.disc(0, 0.01, 0.93, h * 0.92)
    pen.disc(0, 0.03, 0.68, h * 0.66, tone(pen.colour, -0.28) if sum(pen.colour) > 150 else tone(pen.colour, 0.25))
    pen.disc(0, 0.055, 0.64, h * 0.6, tone(pen.colour, -0.06))
    pen.curve(
        [(pen.light * 0.8, -h * 0.32), (pen.light * 0.62, -h * 0.58), (pen.light * 0.36, -h * 0.74)],
        0.05,
        tone(pen.colour, 0.5),
    )
    pen.offer_rest(0, 0.2, 1.05, 1.05)


def draw_bowl(pen: Pen) -> None:
    h, rim, foot = pen.vary(0.74, 0.1), -0.42, pen.vary(0.36)
    pen.disc(0, rim, 1.0, 0.2, tone(pen.colour, 0.2))
    pen.disc(0, rim, 0.92, 0.155, tone(pen.colour, -0.45) if sum(pen.colour) > 150 else tone(pen.colour, 0.3))
    pen.offer_rest(0, rim + 0.03, 1.2, 1.1, depth=0.4)
    pen.to_front()
    low = rim + h
    pen.polygon(
        [(-foot, low), (foot, low), (foot * 0.9, low + 0.16), (-foot * 0.9, low + 0.16)], tone(pen.colour, -0.35)
    )
    rim_front: list[Point] = [(-1, rim), (-0.7, rim + 0.135), (0, rim + 0.2), (0.7, rim + 0.135), (1, rim)]
    outline: list[Point] = [*rim_front, (0.9, rim + h * 0.45), (0.62, rim + h * 0.85), (0.3, low + 0.05)]
    outline += [(-0.3, low + 0.05), (-0.62, rim + h * 0.85), (-0.9, rim + h * 0.45)]
    pen.smooth(outline, tone(pen.colour, -0.22))
    pen.smooth([(x * 0.93 + pen.light * 0.05, y) for x, y in outline])
    pen.curve(rim_front, 0.055, tone(pen.colour, 0.35))
    band = [(x * 0.95, y + 0.2) for x, y in rim_front]
    pen.curve(band, 0.07, pen.pick(WHITE, (60, 90, 170)))
    pen.disc(pen.light * 0.6, rim + h * 0.55, 0.06, 0.1, tone(pen.colour, 0.45))


def draw_cup(pen: Pen) -> None:
    top, bottom, taper, rim = -0.72, 0.8, pen.vary(0.84, 0.1), 0.15
    x = -0.16
    wide, narrow = 0.74, 0.74 * taper
    pen.curve(
        [(x + 0.6, -0.42), (x + 1.02, -0.4), (x + 1.14, -0.05), (x + 0.98, 0.3), (x + 0.6, 0.42)],
        0.17,
        tone(pen.colour, -0.2),
    )
    pen.disc(x, top, wide, rim, tone(pen.colour, 0.25))
    pen.disc(x, top, wide * 0.9, rim * 0.74, tone(pen.colour, -0.5) if sum(pen.colour) > 150 else tone(pen.colour, 0.3))
    pen.offer_rest(x, top - 0.04, 1.15, 1.0, depth=0.6)
    pen.to_front()
    outline: list[Point] = [
        (x - wide, top),
        (x - wide * 0.7, top + 0.1),
        (x, top + rim),
        (x + wide * 0.7, top + 0.1),
        (x + wide, top),
    ]
    outline += [(x + narrow, bottom - 0.06), (x + narrow * 0.7, bottom + 0.04), (x, bottom + 0.08)]
    outline += [(x - narrow * 0.7, bottom + 0.04), (x - narrow, bottom - 0.06)]
    pen.polygon(outline, tone(pen.colour, -0.2))
    pen.polygon([(x + (px - x) * 0.82 + pen.light * 0.1, py) for px, py in outline])
    pen.curve(outline[:5], 0.06, tone(pen.colour, 0.35))
    shine = x + pen.light * wide * 0.62
    pen.line([(shine, top + 0.3), (x + pen.light * narrow * 0.64, bottom - 0.25)], 0.08, tone(pen.colour, 0.4))


def draw_bottle(pen: Pen) -> None:
    w, neck, shoulder = pen.vary(0.36), pen.vary(0.13), pen.vary(-0.3, 0.2)
    half = [
        (neck, -0.84),
        (neck, shoulder - 0.22),
        (w * 0.85, shoulder + 0.02),
        (w, shoulder + 0.22),
        (w, 0.9),
        (w * 0.85, 1.0),
    ]
    outline = [*half, *((-x, y) for x, y in reversed(half))]
    pen.polygon(outline, tone(pen.colour, -0.22))
    pen.polygon([(x * 0.82 + pen.light * 0.05, y) for x, y in outline])
    pen.box(-w, 0.12, w, 0.66, pen.pick(WHITE, (225, 200, 120)))
    pen.box(-w, 0.3, w, 0.46, tone(pen.colour, -0.1))
    pen.line([(pen.light * w * 0.6, shoulder + 0.26), (pen.light * w * 0.6, 0.02)], 0.06, tone(pen.colour, 0.5))
    pen.box(-neck - 0.03, -1.0, neck + 0.03, -0.82, pen.pick(INK, (200, 60, 50), GOLD))


def draw_can(pen: Pen) -> None:
    w, top, bottom, rim = pen.vary(0.58), -0.84, 0.86, 0.14
    pen.disc(0, bottom, w * 0.92, rim, STEEL)
    pen.polygon(
        [
            (-w * 0.9, top),
            (w * 0.9, top),
            (w, top + 0.14),
            (w, bottom - 0.12),
            (w * 0.92, bottom),
            (-w * 0.92, bottom),
            (-w, bottom - 0.12),
            (-w, top + 0.14),
        ],
        SILVER,
    )
    pen.disc(0, bottom - 0.1, w, rim, tone(pen.colour, -0.25))
    pen.box(-w, top + 0.2, w, bottom - 0.1, tone(pen.colour, -0.25))
    pen.box(-w * 0.84 + pen.light * 0.08, top + 0.2, w * 0.84 + pen.light * 0.08, bottom + 0.02)
    pen.disc(0, top + 0.2, w, rim * 0.9, SILVER)
    band = pen.pick(WHITE, (200, 50, 50))
    wave = [
        (-w, 0.2),
        (-w * 0.4, 0.12),
        (w * 0.3, 0.36),
        (w, 0.2),
        (w, -0.12),
        (w * 0.3, 0.06),
        (-w * 0.4, -0.2),
        (-w, -0.1),
    ]
    pen.polygon(wave, band)
    pen.line([(pen.light * w * 0.62, top + 0.5), (pen.light * w * 0.62, bottom - 0.22)], 0.07, tone(pen.colour, 0.5))
    pen.disc(0, top, w * 0.9, rim, tone(SILVER, 0.5))
    pen.disc(0, top + 0.01, w * 0.78, rim * 0.78, tone(SILVER, -0.15))
    pen.disc(0.02, top - 0.02, w * 0.3, 0.055, STEEL)
