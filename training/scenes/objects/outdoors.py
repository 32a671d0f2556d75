"""Drawing of buildings, mountains and clouds."""

from __future__ import annotations

from training.scenes.canvas import GLASS, GOLD, INK, STEEL, WHITE, WOOD, Pen, tone


def draw_house(pen: Pen) -> None:
    roof = pen.pick((166, 62, 48), (74, 78, 92))
    eave, w = pen.vary(-0.1, 0.5), pen.vary(0.78, 0.05)
    pen.box(0.34, -0.92, 0.56, -0.3, tone(roof, -0.3))
    pen.box(-w, eave - 0.06, w, 0.95)
    shade = -w if pen.light > 0 else w - 0.18
    pen.box(shade, eave, shade + 0.18, 0.95, tone(pen.colour, -0.14))
    pen.polygon([(-w - 0.2, eave), (0, -0.98), (w + 0.2, eave)], roof)
    pen.line([(-w - 0.18, eave), (w + 0.18, eave)], 0.06, tone(roof, -0.35))
    door = pen.pick(WOOD, (222, 200, 160))
    pen.box(-0.18, 0.34, 0.18, 0.95, door)
    pen.disc(0.1, 0.66, 0.035, colour=GOLD)
    glass = pen.pick(GLASS, (70, 96, 130))
    for x in (-0.5, 0.5):
        pen.box(x - 0.19, 0.16, x + 0.19, 0.54, WHITE if glass != GLASS else tone(GLASS, -0.5))
        pen.box(x - 0.15, 0.2, x + 0.15, 0.5, glass)
        pen.line([(x, 0.2), (x, 0.5)], 0.03, WHITE)
        pen.line([(x - 0.15, 0.35), (x + 0.15, 0.35)], 0.03, WHITE)
    pen.disc(0, -0.42, 0.12, colour=glass)


def draw_castle(pen: Pen) -> None:
    dark = tone(pen.colour, -0.3) if sum(pen.colour) > 150 else tone(pen.colour, 0.22)
    flag = pen.pick((205, 45, 45), (50, 90, 190))
    wall = pen.vary(-0.06, 1)
    pen.box(-0.34, -0.62, 0.34, 0.3, tone(pen.colour, -0.14))
    for x in (-0.34, -0.08, 0.18):
        pen.box(x, -0.76, x + 0.16, -0.6, tone(pen.colour, -0.14))
    pen.line([(0, -0.7), (0, -1.1)], 0.035, STEEL)
    pen.polygon([(0, -1.1), (0.34, -1.0), (0, -0.9)], flag)
    pen.box(-0.6, wall, 0.6, 0.95)
    for i in range(5):
        pen.box(-0.58 + i * 0.25, wall - 0.14, -0.44 + i * 0.25, wall + 0.02)
    for side in (-1, 1):
        x = side * 0.72
        pen.box(x - 0.25, -0.44, x + 0.25, 0.95, tone(pen.colour, 0.08 if side == pen.light else -0.08))
        pen.box(x - 0.3, -0.5, x + 0.3, -0.36, dark)
        for k in (-1, 0, 1):
            pen.box(x + k * 0.22 - 0.08, -0.66, x + k * 0.22 + 0.08, -0.48)
        pen.pill(x - 0.06, -0.18, x + 0.06, 0.14, 0.055, pen.pick(INK, WHITE))
    gate = pen.pick((70, 44, 28), (190, 150, 100))
    pen.disc(0, 0.5, 0.24, colour=gate)
    pen.box(-0.24, 0.5, 0.24, 0.95, gate)
    for x in (-0.12, 0.0, 0.12):
        pen.line([(x, 0.32), (x, 0.95)], 0.03, tone(gate, -0.5))
    pen.pill(-0.06, -0.42, 0.06, -0.2, 0.055, pen.pick(INK, WHITE))


def draw_skyscraper(pen: Pen) -> None:
    w = pen.vary(0.36)
    pen.line([(0, -0.8), (0, -1.12)], 0.05, STEEL)
    pen.box(-w * 0.5, -0.92, w * 0.5, -0.7, tone(pen.colour, -0.2))
    pen.box(-w, -0.74, w, 1.0)
    shade = -w if pen.light > 0 else w * 0.6
    pen.box(shade, -0.74, shade + w * 0.4, 1.0, tone(pen.colour, -0.22))
    lit, unlit = pen.pick(GLASS, (60, 84, 120)), pen.pick((250, 225, 130), (90, 96, 110))
    for row in range(9):
        for column in range(4):
            x, y = -w * 0.86 + column * w * 0.46, -0.64 + row * 0.165
            pen.box(x, y, x + w * 0.32, y + 0.1, unlit if pen.rng.random() < 0.3 else lit)
    pen.box(-0.1, 0.86, 0.1, 1.0, INK)


def draw_bridge(pen: Pen) -> None:
    """A suspension bridge: two towers, cables, the road."""
    dark = tone(pen.colour, -0.25) if sum(pen.colour) > 150 else tone(pen.colour, 0.2)
    top, sag = pen.vary(-0.62, 0.08), pen.vary(0.62, 0.08)
    road = 0.2
    cable = [(-0.52 + 1.04 * i / 8, top + 0.04 + sag * (1 - (2 * i / 8 - 1) ** 2)) for i in range(9)]
    for x, y in cable[1:-1]:
        pen.line([(x, y), (x, road)], 0.035, dark)
    for side in (-1, 1):
        for k in (1, 2, 3):
            x = side * (0.52 + 0.12 * k)
            pen.line([(x, top + 0.1 + (road - top) * k / 4), (x, road)], 0.035, dark)
        pen.line([(side * 0.52, top + 0.04), (side * 1.04, road)], 0.065)
    pen.curve(cable, 0.065)
    for x in (-0.52, 0.52):
        pen.box(x - 0.09, top - 0.06, x + 0.09, 0.7)
        pen.box(x - 0.13, top - 0.1, x + 0.13, top, dark)
        pen.box(x - 0.15, 0.5, x + 0.15, 0.72, STEEL)
    pen.box(-1.08, road - 0.02, 1.08, road + 0.14)
    pen.line([(-1.08, road + 0.12), (1.08, road + 0.12)], 0.05, dark)


def draw_mountain(pen: Pen) -> None:
    snow = pen.pick(WHITE, (150, 178, 214))
    peak, second = pen.vary(-0.12, 0.8), pen.vary(0.52, 0.1)
    pen.polygon([(second, -0.32), (1.08, 0.72), (-0.1, 0.72)], tone(pen.colour, -0.18))
    pen.polygon(
        [(second, -0.32), (second + 0.2, 0.06), (second + 0.06, 0.0), (second - 0.06, 0.1), (second - 0.2, 0.06)],
        tone(snow, -0.08),
    )
    pen.polygon([(peak, -0.8), (peak + 0.38, -0.2), (0.72, 0.72), (-1.08, 0.72), (peak - 0.42, -0.22)])
    side = 1 if pen.light < 0 else -1
    edge = [
        (peak, -0.8),
        (peak + side * 0.38, -0.21),
        (0.72 if side > 0 else -1.08, 0.72),
        (peak + side * 0.1, 0.72),
        (peak - side * 0.06, 0.2),
        (peak + side * 0.1, -0.2),
    ]
    pen.polygon(edge, tone(pen.colour, -0.28))
    cap = [
        (peak, -0.82),
        (peak + 0.32, -0.3),
        (peak + 0.2, -0.36),
        (peak + 0.1, -0.16),
        (peak - 0.04, -0.34),
        (peak - 0.14, -0.18),
        (peak - 0.24, -0.36),
        (peak - 0.34, -0.33),
    ]
    pen.polygon(cap, snow)


def draw_cloud(pen: Pen) -> None:
    base = 0.4
    puffs = [(-0.62, 0.14, 0.3), (-0.24, -0.14, 0.42), (0.26, -0.06, 0.36), (0.66, 0.16, 0.28)]
    puffs = [(pen.vary(x), pen.vary(y), pen.vary(r)) for x, y, r in puffs]
    pen.pill(-0.95, -0.04, 0.95, base + 0.08, 0.24, tone(pen.colour, -0.24))
    for x, y, r in puffs:
        pen.disc(x, y, r, colour=tone(pen.colour, -0.24))
    shift = pen.light * 0.03
    pen.pill(-0.91, -0.02, 0.91, base - 0.06, 0.2)
    for x, y, r in puffs:
        pen.disc(x + shift, y - 0.03, r * 0.93)
    for x, y, r in puffs[1:3]:
        pen.disc(x + pen.light * r * 0.35, y - r * 0.35, r * 0.4, colour=tone(pen.colour, 0.4))
